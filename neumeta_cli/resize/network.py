"""A real module at given clique widths."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neumeta_cli.checkpoint import put_tensors
from neumeta_cli.trace import Clique, Member, Patch, Trace, on_meta


def resized_shapes(trace: Trace, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights when the cliques in ``sizes`` have that many channels.

    Where a place lies in cliques of several kinds, such as a head and a place in the head, both
    count.
    """
    return _scaled(trace.shapes, {c: c.members for c in trace.cliques}, sizes)


def resized_constants(trace: Trace, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The same for buffers that no checkpoint holds."""
    return _scaled(trace.constants, {c: c.constants for c in trace.cliques}, sizes)


def _scaled(
    shapes: Mapping[str, tuple[int, ...]],
    members: Mapping[Clique, tuple[Member, ...]],
    sizes: Mapping[str, int],
) -> dict[str, tuple[int, ...]]:
    shares: dict[tuple[str, int], np.ndarray] = {}
    for clique, own in members.items():
        ratio = sizes.get(clique.name, clique.channels) / clique.channels
        if ratio == 1:
            continue
        for member in own:
            key = (member.weight, member.dim)
            share = shares.setdefault(key, np.ones(shapes[member.weight][member.dim]))
            share[member.positions] *= ratio
    new = {name: list(shape) for name, shape in shapes.items()}
    for (name, dim), share in shares.items():
        new[name][dim] = round(share.sum())
    return {name: tuple(shape) for name, shape in new.items()}


def resize_model(model: nn.Module, trace: Trace, sizes: Mapping[str, int]) -> nn.Module:
    """The structure of ``model`` at other clique widths, on the meta device.

    Args:
        model: the traced network.
        trace: its trace, as ``resizable`` gives it where modules keep sizes in attributes.
        sizes: clique name to channels; cliques left out keep theirs.

    Tables that the constructor computed and no state dict holds keep their values.

    """
    small = on_meta(model, keep_loose=True)
    stored = model.state_dict()
    constants = resized_constants(trace, sizes)
    for name, constant in model.named_buffers():
        if name not in stored:
            owner, _, key = name.rpartition(".")
            shape = constants.get(name, tuple(constant.shape))
            value = constant
            if shape != tuple(constant.shape):  # all slices are equal
                changed = zip(shape, constant.shape, strict=True)
                first = constant[tuple(slice(1 if n != m else None) for n, m in changed)]
                value = first.expand(shape).clone()
            small.get_submodule(owner)._buffers[key] = value
    shapes = resized_shapes(trace, sizes)
    canonical = {id(t): n for n, t in (*small.named_parameters(), *small.named_buffers())}
    made: dict[str, nn.Parameter] = {}
    for name, module in small.named_modules():
        for key, tensor in (*module.named_parameters(recurse=False), *_buffers(module)):
            first_name = canonical.get(id(tensor), f"{name}.{key}" if name else key)
            shape = shapes.get(first_name, tuple(tensor.shape))
            if shape == tuple(tensor.shape):
                continue
            empty = torch.empty(shape, dtype=tensor.dtype, device="meta")
            if isinstance(tensor, nn.Parameter):
                shared = made.setdefault(first_name, nn.Parameter(empty, requires_grad=False))
                setattr(module, key, shared)
            else:
                module._buffers[key] = empty
        _refresh_attributes(module)
    apply_patches(small, trace, sizes, shapes)
    return small


def apply_patches(
    small: nn.Module,
    trace: Trace,
    sizes: Mapping[str, int],
    shapes: Mapping[str, tuple[int, ...]],
    patches: Sequence[Patch] | None = None,
) -> None:
    """Set the whole numbers in modules that follow a clique's width."""
    full = {c.name: c.channels for c in trace.cliques}
    for patch in trace.patches if patches is None else patches:
        if patch.clique:
            old, new = full[patch.clique], sizes.get(patch.clique, full[patch.clique])
        else:
            old, new = trace.shapes[patch.weight][patch.dim], shapes[patch.weight][patch.dim]
        module = small.get_submodule(patch.module)
        set_number(module, patch.attribute, patch.place, patch.value * new // old)


def numbers(module: nn.Module) -> Iterator[tuple[str, int | None, int]]:
    """Attributes that are whole numbers above one, and such numbers in tuples and lists."""
    for attribute, value in vars(module).items():
        if type(value) is int and value > 1:
            yield attribute, None, value
        elif isinstance(value, tuple | list):
            for place, number in enumerate(value):
                if type(number) is int and number > 1:
                    yield attribute, place, number


def set_number(module: nn.Module, attribute: str, place: int | None, value: int) -> None:
    """Set an attribute, or one place of an attribute that is a tuple or list."""
    if place is not None:
        numbers = getattr(module, attribute)
        changed = [value if i == place else n for i, n in enumerate(numbers)]
        module.__dict__[attribute] = type(numbers)(changed)
    else:
        module.__dict__[attribute] = value


def _buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    return list(module.named_buffers(recurse=False))


def build_resized(
    model: nn.Module, trace: Trace, sizes: Mapping[str, int], tensors: Mapping[str, Tensor]
) -> nn.Module:
    """The network at these widths around ``tensors``, which it shares.

    Raises:
        RuntimeError: a tensor is missing or of another shape.

    """
    return put_weights(resize_model(model, trace, sizes), tensors)


def put_weights(small: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Give a structure on the meta device its weights, which it shares; batch counters may lack.

    Raises:
        RuntimeError: a tensor is missing or of another shape.

    """
    state = dict(tensors)
    device = next(iter(state.values())).device if state else torch.device("cpu")
    for name, like in small.state_dict().items():
        if name.endswith("num_batches_tracked"):  # which many files leave out
            state.setdefault(name, torch.zeros(like.shape, dtype=like.dtype, device=device))
    put_tensors(small, state, assign=True)
    return move_constants(small, device).requires_grad_(False).eval()


def move_constants(small: nn.Module, device: torch.device) -> nn.Module:
    """Bring the tables that a structure has of its own, and no file holds, to a device."""
    for module in small.modules():
        for key, table in _buffers(module):
            if not table.is_meta:
                module._buffers[key] = table.to(device)
    return small


def _conv(module: Any) -> None:
    first, second = module.weight.shape[:2]
    depthwise = module.groups > 1 and module.groups == module.in_channels  # and stays so
    if module.transposed:
        module.groups = first if depthwise else module.groups
        module.in_channels, module.out_channels = first, second * module.groups
        return
    if depthwise:
        module.groups = first * module.groups // module.out_channels
    module.in_channels, module.out_channels = second * module.groups, first


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
    nn.RMSNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
}


def _refresh_attributes(module: nn.Module) -> None:
    """Make attributes such as ``out_channels`` agree with the shapes of the weights."""
    for kind, refresh in ATTRIBUTES.items():
        if isinstance(module, kind):
            refresh(module)
