"""The table at the end of a fit: the checkpoint, and the manifold at some widths."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from neumeta_cli.checkpoint import first_line
from neumeta_cli.evaluate import CHECKPOINT, Look, Row, evaluate_network, sweep, unseen
from neumeta_cli.manifold import Manifold
from neumeta_cli.recipe import Recipe
from neumeta_cli.reporting import Reporter
from neumeta_cli.tasks import Task

TIMED = (1,)  # sizes of batches whose latency the table has


def measured_rows(
    manifold: Manifold,
    model: nn.Module,
    task: Task,
    widths: Sequence[float],
    recipe: Recipe,
    reporter: Reporter,
    pruned: Callable[[float], nn.Module] | None = None,
    look: Look = unseen,
) -> list[Row]:
    """Measure the checkpoint and the manifold, on ``eval.limit`` images; the manifold keeps it.

    Args:
        manifold: a fitted one, whose provenance then holds the table.
        model: the checkpoint's network.
        task: test data.
        widths: of the manifold's networks.
        recipe: says on how many images.
        reporter: is told of the progress.
        pruned: gives the pruned checkpoint of a width, where it is measured too.
        look: is shown each network of the manifold.

    """
    limit = recipe.eval.limit
    if limit is not None and limit < len(task.test):
        task = replace(task, test=task.test.take(limit, recipe.seed))
    running = [width for width in widths if _runs(manifold, width, reporter)]
    rows = [evaluate_network(model, CHECKPOINT, 1.0, task, TIMED)]
    rows += sweep(manifold, task, running, pruned, (), reporter, TIMED, look)
    # Times are of one moment: two fits that are alike write files that are.
    table = {"table": [replace(row, latency={}).as_dict() for row in rows]}
    manifold.provenance = replace(manifold.provenance, metrics=table)
    return rows


def _runs(manifold: Manifold, width: float, reporter: Reporter) -> bool:
    """Whether there is a network of a width; the manifold is good for others if not."""
    try:
        manifold.frame.cost(manifold.frame.sizes(width))
    except Exception as error:  # whatever a forward pass raises on sizes that it refuses
        reporter.tell(f"width {width:g}: the network does not run so narrow: {first_line(error)}")
        return False
    return True
