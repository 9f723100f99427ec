"""A real module at given clique widths."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from neumeta_cli.errors import NeumetaError
from neumeta_cli.trace import Clique, Trace, meta_input, on_meta


def channels_at(clique: Clique, width: float) -> int:
    """How many channels ``clique`` has at ``width`` (kept over full), one at least.

    Raises:
        NeumetaError: the width is no positive, finite number.

    """
    check_width(width)
    return max(1, math.floor(width * clique.channels + 0.5))


def check_width(width: float) -> None:
    """Refuse a width that is no positive, finite number."""
    if not math.isfinite(width) or width <= 0:
        raise NeumetaError(
            f"width {width:g} is not a positive number; 0.5 keeps half of the channels"
        )


def resized_shapes(trace: Trace, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights when the cliques in ``sizes`` have that many channels."""
    shapes = {name: list(shape) for name, shape in trace.shapes.items()}
    for clique in trace.cliques:
        change = sizes.get(clique.name, clique.channels) - clique.channels
        for member in clique.members:
            shapes[member.weight][member.dim] += change * member.repeat
    return {name: tuple(shape) for name, shape in shapes.items()}


def resize_model(model: nn.Module, trace: Trace, sizes: Mapping[str, int]) -> nn.Module:
    """The structure of ``model`` at other clique widths, on the meta device.

    Args:
        model: the traced network.
        trace: its trace.
        sizes: clique name to channels; cliques left out keep theirs.

    Tables that the constructor computed and no state dict holds keep their values.

    """
    small = on_meta(model)
    stored = model.state_dict()
    for name, constant in model.named_buffers():
        if name not in stored:
            owner, _, key = name.rpartition(".")
            small.get_submodule(owner)._buffers[key] = constant
    shapes = resized_shapes(trace, sizes)
    for name, module in small.named_modules():
        for key, tensor in (*module.named_parameters(recurse=False), *_buffers(module)):
            shape = shapes.get(f"{name}.{key}" if name else key, tuple(tensor.shape))
            if shape == tuple(tensor.shape):
                continue
            empty = torch.empty(shape, dtype=tensor.dtype, device="meta")
            if isinstance(tensor, nn.Parameter):
                setattr(module, key, nn.Parameter(empty, requires_grad=False))
            else:
                module._buffers[key] = empty
        _refresh_attributes(module)
    return small


def _buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    return list(module.named_buffers(recurse=False))


def build_resized(
    model: nn.Module, trace: Trace, sizes: Mapping[str, int], tensors: Mapping[str, Tensor]
) -> nn.Module:
    """The network at these widths around ``tensors``, which it shares.

    Raises:
        RuntimeError: a tensor is missing or of another shape.

    """
    small = resize_model(model, trace, sizes)
    state = dict(tensors)
    for name, like in small.state_dict().items():
        if name.endswith("num_batches_tracked"):  # which many files leave out
            state.setdefault(name, torch.zeros(like.shape, dtype=like.dtype))
    small.load_state_dict(state, assign=True)
    return small.requires_grad_(False).eval()


def resizable(model: nn.Module, trace: Trace, input_size: Sequence[int]) -> Trace:
    """Mark as held the cliques at whose reduced size the network no longer runs.

    Tries all cliques at half their size at once, and one by one if that fails.
    """

    def runs(cliques: Sequence[Clique]) -> str:
        sizes = {c.name: channels_at(c, 0.5) for c in cliques}
        small = on_meta(resize_model(model, trace, sizes))
        try:
            with torch.no_grad(), torch.device("meta"):
                small(meta_input(small, input_size))
        except Exception as error:  # whatever a user's forward raises
            return str(error).splitlines()[0] if str(error) else type(error).__name__
        return ""

    if not runs(trace.cliques):
        return trace
    cliques = tuple(
        replace(c, held=f"its size is fixed in the forward pass: {why}")
        if (why := runs([c]))
        else c
        for c in trace.cliques
    )
    return replace(trace, cliques=cliques)


def _conv(module: Any) -> None:
    shape = module.weight.shape
    per_group, other = (shape[0], shape[1]) if module.transposed else (shape[1], shape[0])
    if module.groups > 1 and module.groups == module.in_channels:  # depthwise stays depthwise
        module.groups = other
    inputs, outputs = per_group * module.groups, other
    if module.transposed:
        inputs, outputs = per_group, other * module.groups
    module.in_channels, module.out_channels = inputs, outputs


def _linear(module: Any) -> None:
    module.out_features, module.in_features = module.weight.shape


def _batch_norm(module: Any) -> None:
    reference = module.weight if module.weight is not None else module.running_mean
    if reference is not None:
        module.num_features = len(reference)


def _layer_norm(module: Any) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


def _group_norm(module: Any) -> None:
    if module.weight is not None:
        module.num_channels = len(module.weight)


def _embedding(module: Any) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


ATTRIBUTES: dict[type[nn.Module], Callable[[Any], None]] = {
    nn.modules.conv._ConvNd: _conv,
    nn.Linear: _linear,
    nn.modules.batchnorm._BatchNorm: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
}


def _refresh_attributes(module: nn.Module) -> None:
    """Make attributes such as ``out_channels`` agree with the shapes of the weights."""
    for kind, refresh in ATTRIBUTES.items():
        if isinstance(module, kind):
            refresh(module)
