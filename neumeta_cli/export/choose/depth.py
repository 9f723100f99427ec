"""Which blocks a network of a smaller depth does without."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from neumeta_cli.errors import NeumetaError
from neumeta_cli.export.choose.budget import Meter, widest_within
from neumeta_cli.export.choose.search import halves
from neumeta_cli.export.choose.wish import Choice
from neumeta_cli.manifold import Manifold
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.resize import PassOn, Run, calibrate, calibration_batches
from neumeta_cli.tasks import Task
from neumeta_cli.training.outputs import tensors_of

if TYPE_CHECKING:
    from neumeta_cli.export.planning import Order

PATIENCE = 2  # blocks that are tried after the best number
IMAGES = 64  # that blocks are judged by, at most


@torch.no_grad()
def expendable_blocks(
    manifold: Manifold,
    runs: Sequence[Run],
    counts: Mapping[str, int],
    reporter: Reporter | None = None,
) -> tuple[str, ...]:
    """Choose blocks to leave out, one after another: the one without which outputs change least.

    Judged at full width by the squared distance of outputs from the checkpoint's, on the images
    that the manifold keeps to calibrate norms, whose statistics follow; on noise where it has none.

    Args:
        manifold: a fitted one.
        runs: of its network.
        counts: for each run by name, how many blocks are to be left; others stay whole.
        reporter: is told of the progress.

    Returns:
        Names of the blocks, the one that is missed least first.

    """
    reporter = reporter or Silent()
    network = manifold.sample(1.0, samples=0)
    images = _images(manifold)
    norms = [name for name in manifold.norms if len(manifold.calibration)]
    if norms:
        calibrate(network, norms, images)
    wanted = _outputs(network, images)
    left = {run.name: len(run.blocks) - counts.get(run.name, len(run.blocks)) for run in runs}
    dropped: list[str] = []
    reporter.start("choose blocks", sum(left.values()))
    while any(left.values()):
        apart: dict[tuple[str, str], float] = {}
        for run in runs:
            for block in run.removable if left[run.name] else ():
                if block not in dropped:
                    apart[run.name, block] = _apart(network, block, norms, images, wanted)
        name, block = min(apart, key=lambda one: apart[one])
        network.set_submodule(block, PassOn())
        norms = [norm for norm in norms if not norm.startswith(f"{block}.")]
        dropped.append(block)
        left[name] -= 1
        reporter.advance(1, f"without {block}")
    reporter.finish()
    return tuple(dropped)


def best_depth(
    manifold: Manifold,
    order: "Order",
    task: Task,
    scale: float = 1.0,
    reporter: Reporter | None = None,
) -> tuple[Manifold, list[float | None]]:
    """Find how many blocks to leave out within a budget, each time at the widest width within it.

    One block after another goes, as ``expendable_blocks`` has them, until two more have not helped.

    Args:
        manifold: a fitted one.
        order: with the budget, and the wish for widths.
        task: test images, one half of which (of the order's seed) choose by the first metric.
        scale: bytes of a number of the file over those of float32.
        reporter: is told of the progress.

    Returns:
        The manifold without the best number of blocks, and the metric without 0, 1, 2, … blocks;
        None where no width is within the budget.

    Raises:
        NeumetaError: no depth has a network within the budget.

    """
    reporter = reporter or Silent()
    runs, metric = manifold.frame.runs, task.metrics[0]
    gone = expendable_blocks(manifold, runs, {run.name: run.fewest for run in runs}, reporter)
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
    return best, tried


def _images(manifold: Manifold) -> list[Tensor]:
    if len(manifold.calibration):
        kept = torch.cat(list(manifold.calibration.batches()))[:IMAGES]
    else:
        noise = torch.Generator().manual_seed(0)
        kept = torch.randn(IMAGES, *manifold.input_size, generator=noise)
        kept = kept.to(next(manifold.inr.parameters()).device)
    return [kept[part] for part in calibration_batches(len(kept), kept[:1].numel())]


def _apart(
    network: nn.Module,
    block: str,
    norms: Sequence[str],
    images: Sequence[Tensor],
    wanted: Sequence[Tensor],
) -> float:
    """How far outputs are without a block, which is put back."""
    whole = network.get_submodule(block)
    state = {n: t.clone() for n, t in network.state_dict().items()} if norms else {}
    network.set_submodule(block, PassOn())
    try:
        own = [norm for norm in norms if not norm.startswith(f"{block}.")]
        if own:
            calibrate(network, own, images)
        made = _outputs(network, images)
    finally:
        network.set_submodule(block, whole)
        if state:
            network.load_state_dict(state)
    return sum(float((m - w).square().sum()) for m, w in zip(made, wanted, strict=True))


def _outputs(network: nn.Module, images: Sequence[Tensor]) -> list[Tensor]:
    return [tensor for batch in images for tensor in tensors_of(network(batch))]
