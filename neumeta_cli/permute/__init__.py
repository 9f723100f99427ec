"""Permuting channels so that weights vary smoothly along them (intra-model smoothness)."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from neumeta_cli.checkpoint import put_tensors
from neumeta_cli.errors import NeumetaError
from neumeta_cli.permute.invariance import invariance_error
from neumeta_cli.permute.objective import channel_distances, path_length
from neumeta_cli.permute.solvers import SOLVERS
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.trace import Clique, Trace


@dataclass(frozen=True)
class CliqueOrder:
    """The order found for one clique.

    Attributes:
        clique: name.
        order: (copies · channels,) the row of the clique that comes to stand at each place.
        before, after: total variation over all member weights, as stored and in this order.
        seconds: spent on distances and solving.
        members: how many (weight, dimension) pairs count.

    """

    clique: str
    order: np.ndarray
    before: float
    after: float
    seconds: float
    members: int


def find_orders(
    tensors: Mapping[str, Tensor],
    trace: Trace,
    parameters: Sequence[str],
    solver: str = "2.5-opt",
    seed: int = 0,
    reporter: Reporter | None = None,
) -> list[CliqueOrder]:
    """Find a channel order of low total variation for every clique.

    Args:
        tensors: all weights by name.
        trace: of the same network.
        parameters: the names that count towards the distance: parameters, not running statistics.
        solver: a name in ``SOLVERS``.
        seed: of the solver.
        reporter: is told of the progress.

    Raises:
        NeumetaError: no such solver.

    """
    if solver not in SOLVERS:
        raise NeumetaError(f"unknown solver {solver!r}; choose from {', '.join(SOLVERS)}")
    reporter = reporter or Silent()
    counted = set(parameters)
    found = []
    reporter.start("permute", len(trace.cliques))
    for clique in trace.cliques:
        start = time.perf_counter()
        members = tuple(m for m in clique.members if m.weight in counted)
        orders, before, after = [], 0.0, 0.0
        for copy in range(clique.copies):
            rows = np.arange(copy * clique.channels, (copy + 1) * clique.channels)
            distances = channel_distances(members, rows, tensors)
            order = SOLVERS[solver](distances, seed)
            orders.append(rows[order])
            before += path_length(distances, np.arange(clique.channels))
            after += path_length(distances, order)
        seconds = time.perf_counter() - start
        order = np.concatenate(orders)
        found.append(CliqueOrder(clique.name, order, before, after, seconds, len(members)))
        reporter.advance(1, clique.name)
    reporter.finish()
    return found


def apply_orders(
    tensors: Mapping[str, Tensor], cliques: Sequence[Clique], orders: Mapping[str, np.ndarray]
) -> dict[str, Tensor]:
    """Permute every member of the cliques named in ``orders``; other tensors stay as they are."""
    permuted = dict(tensors)
    for clique in cliques:
        order = orders.get(clique.name)
        if order is None:
            continue
        for member in clique.members:
            weight = permuted[member.weight]
            index = np.arange(weight.shape[member.dim])
            index[member.positions] = member.positions[order]
            permuted[member.weight] = weight.index_select(
                member.dim, torch.from_numpy(index).to(weight.device)
            )
    return permuted


def permute_tensors(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    trace: Trace,
    orders: Mapping[str, np.ndarray],
) -> dict[str, Tensor]:
    """Permute a state dict of ``model`` in its own dtypes; a weight's other names follow it."""
    canonical: dict[int, str] = {}
    source = {
        name: canonical.setdefault(id(t), name)
        for name, t in (
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        )
    }
    permuted = apply_orders(tensors, trace.cliques, orders)
    return {name: permuted[source.get(name, name)] for name in tensors}


def permute_model(
    model: nn.Module, trace: Trace, solver: str = "2.5-opt", seed: int = 0
) -> tuple[nn.Module, list[CliqueOrder]]:
    """Permute ``model`` in place to low total variation; what it computes stays the same.

    Returns:
        The same module and what was found for each clique.

    """
    tensors = model.state_dict()
    orders = find_orders(tensors, trace, [n for n, _ in model.named_parameters()], solver, seed)
    permuted = permute_tensors(model, tensors, trace, {o.clique: o.order for o in orders})
    put_tensors(model, permuted)
    return model, orders


__all__ = [
    "SOLVERS",
    "CliqueOrder",
    "apply_orders",
    "channel_distances",
    "find_orders",
    "invariance_error",
    "path_length",
    "permute_model",
    "permute_tensors",
]
