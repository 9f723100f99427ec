"""The table at the end of a fit: the checkpoint, and the manifold at some widths."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from neumeta_cli.checkpoint import first_line
from neumeta_cli.evaluate import CHECKPOINT, Look, Row, evaluate_network, sweep, unseen
from neumeta_cli.manifold import Manifold
from neumeta_cli.recipe import Recipe
from neumeta_cli.reporting import Reporter
from neumeta_cli.resize import added_blocks
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
    table: dict[str, Any] = {"table": [replace(row, latency={}).as_dict() for row in rows]}
    if recipe.fit.depths:
        table["depths"] = _by_depth(manifold, task, recipe.fit.depths, reporter)
    manifold.provenance = replace(manifold.provenance, metrics=table)
    return rows


def _by_depth(
    manifold: Manifold, task: Task, trained: tuple[float, float], reporter: Reporter
) -> list[dict[str, Any]]:
    """The metrics at full width with most blocks that were trained, with fewest, and half-way."""
    found, depths, (low, high) = [], manifold.inr.depths, trained
    for depth in (*([high] if high > 1 else []), *([(1 + low) / 2, low] if low < 1 else [])):
        runs = manifold.frame.runs
        counts = {run.name: run.count(depth) for run in runs}
        gone = depths.gone({run.name: len(run.blocks) - counts[run.name] for run in runs})
        more = {n: c for n, c in added_blocks(runs, counts).items() if n in depths.added}
        metrics = task.measure(manifold.without(gone).longer(more).sample(1.0))
        named = [metric for metric in task.metrics if metric.name in metrics]
        values = ", ".join(f"{metric.name} {metric.show(metrics[metric.name])}" for metric in named)
        whole = sum(len(run.blocks) for run in runs)
        blocks = f"{whole + sum(more.values()) - len(gone)} of {whole} blocks"
        reporter.tell(f"depth {depth:.2g} ({blocks}): {values}")
        found.append({"depth": depth, "dropped": list(gone), "added": more, "metrics": metrics})
    return found


def _runs(manifold: Manifold, width: float, reporter: Reporter) -> bool:
    """Whether there is a network of a width; the manifold is good for others if not."""
    try:
        manifold.frame.cost(manifold.frame.sizes(width))
    except Exception as error:  # whatever a forward pass raises on sizes that it refuses
        reporter.tell(f"width {width:g}: the network does not run so narrow: {first_line(error)}")
        return False
    return True
