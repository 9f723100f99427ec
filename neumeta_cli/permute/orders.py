"""Finding the order of every clique, and applying it."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from neumeta_cli.checkpoint import put_tensors
from neumeta_cli.permute.objective import Objective, channel_distances, path_length
from neumeta_cli.permute.solvers import Solver, named
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.trace import Clique, Trace


@dataclass(frozen=True)
class Ordering:
    """How channel orders are to be found.

    Attributes:
        solver: a name in ``SOLVERS``.
        seed: of the solver; the same seed gives the same order unless the time limit cuts it.
        time_limit: seconds for a clique's solving, or none.
        objective: what a short path is short in.

    """

    solver: str = "2.5-opt"
    seed: int = 0
    time_limit: float | None = None
    objective: Objective = field(default_factory=Objective)


@dataclass(frozen=True)
class CliqueOrder:
    """The order found for one clique.

    Attributes:
        clique: name.
        order: (copies · channels,) the row of the clique that comes to stand at each place.
        before, after: the objective, total variation over all member weights, as stored and in
            this order.
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
    ordering: Ordering = Ordering(),
    reporter: Reporter | None = None,
) -> list[CliqueOrder]:
    """Find a channel order of low total variation for every clique.

    Cliques are solved side by side, the largest first. Copies are solved each on its own, and
    blocks such as heads once the channels in them have their places.

    Args:
        tensors: all weights by name.
        trace: of the same network.
        parameters: the names that count towards the distance: parameters, not running statistics.
        ordering: how.
        reporter: is told of the progress.

    Raises:
        NeumetaError: no such solver, or the solver cannot take a clique.

    """
    solver = named(ordering.solver)
    reporter = reporter or Silent()
    counted = set(parameters)
    found: dict[str, CliqueOrder] = {}
    reporter.start("permute", len(trace.cliques))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for wave in _finest_first(trace.cliques):
            jobs = [
                pool.submit(_order, clique, counted, tensors, solver, ordering)
                for clique in sorted(wave, key=lambda c: -_cost(c, trace))
            ]
            try:
                for job in as_completed(jobs):
                    result = job.result()
                    found[result.clique] = result
                    reporter.advance(1, result.clique)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            if len(found) < len(trace.cliques):
                tensors = apply_orders(tensors, wave, {c.name: found[c.name].order for c in wave})
    reporter.finish()
    return [found[clique.name] for clique in trace.cliques]


def _order(
    clique: Clique,
    counted: set[str],
    tensors: Mapping[str, Tensor],
    solver: Solver,
    ordering: Ordering,
) -> CliqueOrder:
    start = time.perf_counter()
    members = tuple(m for m in clique.members if m.weight in counted)
    orders, before, after = [], 0.0, 0.0
    for copy in range(clique.copies):
        rows = np.arange(copy * clique.channels, (copy + 1) * clique.channels)
        distances = channel_distances(members, rows, tensors, ordering.objective)
        order = solver(distances, ordering.seed, ordering.time_limit)
        orders.append(rows[order])
        before += path_length(distances, np.arange(clique.channels))
        after += path_length(distances, order)
    seconds = time.perf_counter() - start
    return CliqueOrder(clique.name, np.concatenate(orders), before, after, seconds, len(members))


def _cost(clique: Clique, trace: Trace) -> int:
    """Proportional to the work of the clique's distances."""
    values = {m.weight: int(np.prod(trace.shapes.get(m.weight, (1,)))) for m in clique.members}
    return clique.channels * sum(values.values())


def _finest_first(cliques: Sequence[Clique]) -> list[list[Clique]]:
    """Cliques in waves: one whose channels are blocks comes after those of what is in the blocks.

    The distance between two blocks depends on the order inside them.
    """
    import networkx as nx

    along: dict[tuple[str, int], list[tuple[int, int, np.ndarray]]] = {}
    for i, clique in enumerate(cliques):
        for m in clique.members:
            along.setdefault((m.weight, m.dim), []).append((i, m.repeat, m.positions))
    inside: nx.DiGraph = nx.DiGraph()
    inside.add_nodes_from(range(len(cliques)))
    for members in along.values():
        for (i, few, here), (j, many, there) in combinations(sorted(members, key=_repeat), 2):
            if i != j and few < many and np.intersect1d(here, there).size:
                inside.add_edge(i, j)
    # Cliques that are inside one another in two weights, the one way and the other, go together.
    together = nx.condensation(inside)
    return [
        [cliques[i] for group in wave for i in sorted(together.nodes[group]["members"])]
        for wave in nx.topological_generations(together)
    ]


def _repeat(member: tuple[int, int, np.ndarray]) -> int:
    return member[1]


def apply_orders(
    tensors: Mapping[str, Tensor], cliques: Sequence[Clique], orders: Mapping[str, np.ndarray]
) -> dict[str, Tensor]:
    """Permute every member of the cliques named in ``orders``; other tensors stay as they are."""
    permuted = dict(tensors)
    for clique in (c for wave in _finest_first(cliques) for c in wave if c.name in orders):
        order = orders[clique.name]
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
    model: nn.Module,
    trace: Trace,
    ordering: Ordering = Ordering(),
) -> tuple[nn.Module, list[CliqueOrder]]:
    """Permute ``model`` in place to low total variation; what it computes stays the same.

    Returns:
        The same module and what was found for each clique.

    """
    tensors = model.state_dict()
    orders = find_orders(tensors, trace, [n for n, _ in model.named_parameters()], ordering)
    permuted = permute_tensors(model, tensors, trace, {o.clique: o.order for o in orders})
    put_tensors(model, permuted)
    return model, orders
