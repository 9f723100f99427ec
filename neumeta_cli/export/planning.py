"""From wishes, budgets and targets to a network on disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from neumeta_cli.errors import NeumetaError
from neumeta_cli.export.choose.budget import (
    Budget,
    Meter,
    hold_file_size,
    narrowest_reaching,
    widest_within,
)
from neumeta_cli.export.choose.search import Searched, halves, search_widths
from neumeta_cli.export.choose.wish import Choice, Wish, cost_of
from neumeta_cli.export.precision import check_dtype
from neumeta_cli.export.write import AS_SAMPLED, Exported, Finish, check_ending, export_network
from neumeta_cli.manifold import Manifold
from neumeta_cli.reporting import Reporter
from neumeta_cli.tasks import Task


@dataclass(frozen=True)
class Order:
    """What a network is to be like.

    Attributes:
        wish: widths that are given.
        budget: what it may cost.
        target: of the task's first metric; the narrowest network that reaches it is taken.
        search: how many networks a search for each clique's width scores; None: no search.
        seed: of the search.
        depths: the sets of blocks that a search may leave out, ascending; see ``search_widths``.

    """

    wish: Wish
    budget: Budget = field(default_factory=Budget)
    target: float | None = None
    search: int | None = None
    seed: int = 0
    depths: tuple[tuple[str, ...], ...] = ()

    @property
    def plans(self) -> bool:
        """Whether a width is to be found."""
        return bool(self.budget.limits) or self.target is not None


@dataclass(frozen=True)
class Planned:
    """A network that was chosen.

    Attributes:
        sizes: channels by clique.
        width: of the cliques that no wish names; None where they differ.
        limits: of the budget, by name.
        reached: what the network costs, by the same names.
        metrics: where a target was to be reached, or a search judged.
        searched: what a search found.
        judged: on how many test images the metrics were measured, where others chose the network.
        dropped: names of the blocks that it lacks.

    """

    sizes: dict[str, int]
    width: float | None
    limits: Mapping[str, float] = field(default_factory=dict)
    reached: dict[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] | None = None
    searched: Searched | None = None
    judged: int | None = None
    dropped: tuple[str, ...] = ()

    @property
    def improved(self) -> bool:
        """Whether a search found better widths than one for all."""
        return self.searched is not None and self.searched.best is self.searched.allocated


def plan(
    choice: Choice,
    order: Order,
    meter: Meter,
    task: Task | None = None,
    samples: int | None = None,
    reporter: Reporter | None = None,
) -> Planned:
    """Choose the sizes of cliques.

    Args:
        choice: the networks that the wish leaves.
        order: what is wanted.
        meter: of the order's budget.
        task: test images for a target or a search; half of them choose, the others judge.
        samples: K, the manifold's own if None.
        reporter: is told of the progress.

    Raises:
        NeumetaError: no network is like that, or a target or a search has no data.

    """
    if not order.plans:
        width = 1.0 if order.wish.everywhere is None else order.wish.everywhere
        sizes = choice.sizes(width)
        cost_of(choice.manifold, sizes)  # says what is wrong before any work is done
        named, gone = order.wish.names_some, choice.manifold.frame.dropped
        return Planned(sizes, None if named else width, dropped=gone)
    if not choice.free:
        raise NeumetaError("every clique has a width already, so there is nothing to choose")
    if (order.target is not None or order.search) and task is None:
        raise NeumetaError("a target or a search needs data; pass --data DIR")

    metrics: Mapping[str, float] | None = None
    searched = judged = None
    if order.target is not None:
        assert task is not None
        choosing, judging = halves(task, order.seed)

        def network(sizes: Mapping[str, int]) -> nn.Module:
            return choice.manifold.sample(sizes=sizes, samples=samples)

        found, _ = narrowest_reaching(
            choice,
            meter,
            order.target,
            task.metrics[0],
            lambda sizes: choosing.evaluate(network(sizes)),
            reporter,
        )
        metrics, judged = judging.measure(network(found.sizes)), len(judging.test)
    else:
        found = widest_within(choice, meter, reporter)
    if order.search and order.target is None:
        assert task is not None
        searched = search_widths(
            choice, meter, found, task, samples, order.seed, order.search, reporter, order.depths
        )
        found, metrics = searched.best.found, searched.best.metrics
    uniform = not order.wish.names_some and (searched is None or found is searched.uniform.found)
    return Planned(
        found.sizes,
        found.width if uniform else None,
        meter.budget.limits,
        found.cost,
        metrics,
        searched,
        searched.images if searched is not None else judged,
        found.dropped,
    )


def export_planned(
    choice: Choice,
    order: Order,
    path: Path,
    task: Task | None = None,
    samples: int | None = None,
    finish: Finish = AS_SAMPLED,
    reporter: Reporter | None = None,
) -> tuple[Planned, Exported]:
    """Choose a network and write it; a budget of bytes holds for the file.

    Raises:
        NeumetaError: as ``plan`` and ``export_network``.

    """
    path = Path(path)
    check_ending(path)
    written: list[tuple[Planned, Exported]] = []

    def write(meter: Meter, place: Path) -> float:
        planned = plan(choice, order, meter, task, samples, reporter)
        chosen = choice.manifold.without(planned.dropped)
        exported = _write(chosen, place, planned, samples, reporter, finish)
        written.append((planned, exported))
        return planned.reached.get("bytes", 0.0)

    scale = check_dtype(finish.dtype).itemsize / torch.float32.itemsize
    meter = Meter(choice.manifold, order.budget, scale)
    if order.budget.bytes is None:
        write(meter, path)
    else:
        hold_file_size(path, meter, write)
    planned, exported = written[-1]
    return planned, Exported(exported.model, exported.sizes, path, exported.metrics)


def _write(
    manifold: Manifold,
    path: Path,
    planned: Planned,
    samples: int | None,
    reporter: Reporter | None,
    finish: Finish,
) -> Exported:
    width, sizes = planned.width, planned.sizes
    if width is not None and manifold.frame.sizes(width) == sizes:
        return export_network(manifold, path, width, samples, reporter, finish)
    return export_network(manifold, path, None, samples, reporter, finish, sizes)
