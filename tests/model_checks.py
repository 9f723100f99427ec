"""What must hold of any network: asked by the tests of some and by the benchmark of all."""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from neumeta_cli.checkpoint import put_tensors
from neumeta_cli.permute import invariance_error, permute_tensors
from neumeta_cli.resize import build_resized, resizable, select_channels, sizes_at
from neumeta_cli.trace import Clique, Inputs, Trace, random_inputs


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random statistics for norms, and no parameter that starts as zeros or ones left so."""
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1, generator=generator)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() <= 1 or float(parameter.abs().max()) < 1e-3:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * noise.to(parameter.dtype))
    return model.requires_grad_(False).eval()


def shuffled(trace: Trace, seed: int = 1) -> dict[str, np.ndarray]:
    """A random order for every clique."""
    rng = np.random.default_rng(seed)
    return {
        c.name: _rows(c, [rng.permutation(c.channels) for _ in range(c.copies)])
        for c in trace.cliques
    }


def _rows(clique: Clique, orders: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([n * clique.channels + order for n, order in enumerate(orders)])


def permutation_error(model: nn.Module, trace: Trace, inputs: Inputs) -> tuple[float, float]:
    """Permute every clique at random.

    Returns:
        The relative difference of the outputs in float64, and the share of all weights that the
        forward pass uses whose tensors have changed.

    """
    state = model.state_dict()
    permuted = permute_tensors(model, state, trace, shuffled(trace))
    other = copy.deepcopy(model)
    put_tensors(other, permuted)
    parameters = {name for name, _ in model.named_parameters()}
    sizes = {name: state[name].numel() for name in trace.shapes if name in parameters}
    moved = sum(n for name, n in sizes.items() if not torch.equal(state[name], permuted[name]))
    return invariance_error(model, other, inputs), moved / sum(sizes.values())


@dataclass(frozen=True)
class Resized:
    """What became of a network at another width.

    Attributes:
        parameters_left: over all, of those that the forward pass uses.
        held: cliques that keep their width though no other carries it.
        cliques: of the network.
        same_outputs: the outputs have the same shapes.
        reloads: written to a file and read back it computes the same.
        exact_at_full: at width 1, with the weights it had, it computes exactly the same.

    """

    parameters_left: float
    held: int
    cliques: int
    same_outputs: bool
    reloads: bool
    exact_at_full: bool


def resize(
    model: nn.Module, trace: Trace, inputs: Inputs, file: Path, width: float = 0.5
) -> Resized:
    """Keep random channels of every clique that can change, and try the network that is left."""
    trace = resizable(model, trace, inputs)
    free = [c for c in trace.cliques if not c.held]
    sizes = sizes_at(trace, [c.name for c in free], width)
    rng = np.random.default_rng(0)
    kept = {
        c.name: _rows(
            c, [np.sort(rng.permutation(c.channels)[: sizes[c.name]]) for _ in range(c.copies)]
        )
        for c in free
    }
    state = dict(model.state_dict())
    small = build_resized(model, trace, sizes, select_channels(state, trace, kept))
    before, after = _run(model, inputs), _run(small, inputs)
    unique = {n: t.contiguous().clone() for n, t in small.state_dict().items()}
    save_file(unique, file)
    read = {n: t.clone() for n, t in load_file(file).items()}  # aligned, as ours are
    again = build_resized(model, trace, sizes, read)
    full = build_resized(model, trace, {c.name: c.channels for c in free}, state)
    return Resized(
        _parameters(small, trace) / _parameters(model, trace),
        sum(bool(c.held) and not c.order_only for c in trace.cliques),
        len(trace.cliques),
        [t.shape for t in before] == [t.shape for t in after],
        all(map(torch.equal, after, _run(again, inputs))),
        all(map(torch.equal, before, _run(full, inputs))),
    )


def _parameters(model: nn.Module, trace: Trace) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if name in trace.shapes)


def _run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    args, kwargs = random_inputs(model, inputs, batch=1)
    with torch.no_grad():
        return [t for t in tree_leaves(model(*args, **kwargs)) if isinstance(t, Tensor)]
