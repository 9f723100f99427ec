"""Which blocks a network of a smaller depth does without."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neumeta_cli.distill import JUDGING, expendable_blocks
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export.choose.budget import Meter, widest_within
from neumeta_cli.export.choose.search import halves
from neumeta_cli.export.choose.wish import Choice
from neumeta_cli.manifold import Manifold
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.tasks import Task

if TYPE_CHECKING:
    from neumeta_cli.export.planning import Order

PATIENCE = 2  # blocks that are tried after the best number


def blocks_to_drop(
    manifold: Manifold,
    counts: Mapping[str, int],
    reporter: Reporter | None = None,
) -> tuple[str, ...]:
    """The blocks to leave out: those that the fit says, or those without which least changes.

    A manifold that was fitted for depth has its order of blocks. Of another they are judged by
    ``expendable_blocks`` on the images that it keeps to calibrate norms, on noise if it keeps none.

    Args:
        manifold: a fitted one.
        counts: for each run by name, how many blocks are to be left; others stay whole.
        reporter: is told of the progress.

    Returns:
        Names of the blocks, the one that is missed least first.

    """
    runs, depths = manifold.frame.runs, manifold.inr.depths
    if depths.blocks:
        whole = {run.name: len(run.blocks) for run in runs}
        return depths.gone({name: whole[name] - count for name, count in counts.items()})
    network = manifold.sample(1.0, samples=0)
    norms = manifold.norms if len(manifold.calibration) else ()
    return expendable_blocks(network, runs, counts, _images(manifold), norms, reporter)


def best_depth(
    manifold: Manifold,
    order: "Order",
    task: Task,
    scale: float = 1.0,
    reporter: Reporter | None = None,
) -> tuple[Manifold, tuple[str, ...], list[float | None]]:
    """Find how many blocks to leave out within a budget, each time at the widest width within it.

    One block after another goes, as ``blocks_to_drop`` has them, until two more have not helped.

    Args:
        manifold: a fitted one.
        order: with the budget, and the wish for widths.
        task: test images, one half of which (of the order's seed) choose by the first metric.
        scale: bytes of a number of the file over those of float32.
        reporter: is told of the progress.

    Returns:
        The manifold without the best number of blocks, the blocks that can go in the order in
        which they do, and the metric without 0, 1, 2, … of them; None where no width is within the
        budget.

    Raises:
        NeumetaError: no depth has a network within the budget.

    """
    reporter = reporter or Silent()
    runs, metric = manifold.frame.runs, task.metrics[0]
    gone = blocks_to_drop(manifold, {run.name: run.fewest for run in runs}, reporter)
    choosing, _ = halves(task, order.seed)
    tried: list[float | None] = []
    best, place, refused = manifold, 0, None
    for count in range(len(gone) + 1):
        short = manifold.without(gone[:count])
        try:
            choice, meter = Choice(short, order.wish), Meter(short, order.budget, scale)
            found = widest_within(choice, meter, reporter)
        except NeumetaError as error:
            tried.append(None)
            refused = refused or error
            continue
        value = choosing.evaluate(short.sample(sizes=found.sizes))
        tried.append(value)
        before = tried[place]
        if before is None or (value != before and metric.reaches(value, before)):
            best, place = short, count
        elif count - place == PATIENCE:
            break
    if refused and tried[place] is None:
        raise refused
    return best, gone, tried


def _images(manifold: Manifold) -> Tensor:
    if len(manifold.calibration):
        return torch.cat(list(manifold.calibration.batches()))
    noise = torch.Generator().manual_seed(0)
    return torch.randn(JUDGING, *manifold.input_size, generator=noise).to(manifold.inr.device)
