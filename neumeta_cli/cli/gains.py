"""What narrower networks save, how accurate a manifold knows them to be, and what comes next."""

import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from neumeta_cli.cli.console import note
from neumeta_cli.reporting import counted

if TYPE_CHECKING:
    from neumeta_cli.evaluate import Row
    from neumeta_cli.manifold import Manifold
    from neumeta_cli.tasks import Metric

SHOWN_WIDTHS = (0.75, 0.5, 0.25)  # of what a fit says at its end
MOST_LOST = 0.05  # of a share, at full width, where next to nothing should be lost
LEAST_KEPT = 0.25  # of the checkpoint's share; what keeps less is hardly better than guessing


def tell_next(json: str | None, *command: object) -> None:
    """Tell which command comes next, with its paths, unless stdout is for a program."""
    if json != "-":
        note(f"next: {shlex.join(['neumeta', *map(str, command)])}")


def tell_export_next(json: str | None, manifold: object, permission: bool = False) -> None:
    """After whatever makes or measures a manifold, with the permission that its code may need."""
    trust = ["--trust-code"] if permission else []
    tell_next(json, "export", manifold, "--width", "0.5", "-o", "small.pt", *trust)


def gained_in(rows: "Sequence[Row]", metric: "Metric | None") -> list[str]:
    """What is left at a few widths of networks that were measured, the metric before and after.

    Args:
        rows: the checkpoint's first.
        metric: the task's first; None where nothing could be measured.

    """
    from neumeta_cli.evaluate import MANIFOLD

    whole, *others = rows
    narrow = [row for row in others if row.method == MANIFOLD and row.width < 1]
    chosen = {
        min(narrow, key=lambda row: abs(row.width - width)).width: None
        for width in (SHOWN_WIDTHS if narrow else ())
    }
    return [_left(row, whole, metric) for row in narrow if row.width in chosen]


def doubts_in(rows: "Sequence[Row]", metric: "Metric | None") -> list[str]:
    """Warnings of networks that are not worth using, of what is a share and better when higher."""
    from neumeta_cli.evaluate import MANIFOLD

    if metric is None or not (metric.share and metric.higher_is_better):
        return []
    whole, *others = rows
    before = whole.metrics[metric.name]
    ours = {row.width: row.metrics[metric.name] for row in others if row.method == MANIFOLD}
    told = []
    if before - ours.get(1.0, before) > MOST_LOST:
        told.append(
            f"warning: at full width {metric.name} is {metric.show(ours[1.0])}, and the checkpoint "
            f"has {metric.show(before)}: this fit is not good; give it more epochs or images, or "
            "leave out --recipe for an automatic one"
        )
    useless = [f"{width:g}" for width, value in ours.items() if value < LEAST_KEPT * before]
    if useless:
        told.append(
            f"warning: at width {', '.join(useless)} less than {LEAST_KEPT:.0%} of the "
            f"checkpoint's {metric.name} is left, hardly more than guessing gives; give the fit "
            "more epochs or images"
        )
    return told


def _left(row: "Row", whole: "Row", metric: "Metric | None") -> str:
    cost, full = row.cost, whole.cost
    told = [
        f"{cost.parameters / full.parameters:.0%} of the parameters",
        f"{cost.macs / full.macs:.0%} of the MACs",
        f"{cost.bytes:,} of {full.bytes:,} bytes",
    ]
    if row.latency and whole.latency:
        batch = min(row.latency)
        after, before = (1000 * measured.latency[batch] for measured in (row, whole))
        told.append(f"{after:.3g} ms ({before:.3g} before)")
    if metric is not None:
        after, before = (measured.metrics[metric.name] for measured in (row, whole))
        told.append(f"{metric.name} {metric.show(after)} ({metric.show(before)} before)")
    return f"width {row.width:g}: {', '.join(told)}"


def share_of_parameters(manifold: "Manifold", sizes: Mapping[str, int]) -> float:
    """Parameters of the network of these sizes, over those of the whole one."""
    frame = manifold.frame
    return frame.cost(dict(sizes)).parameters / frame.whole.cost(frame.full).parameters


def how_much_is_left(manifold: "Manifold", sizes: Mapping[str, int]) -> str:
    """How many cliques changed and what is left of the network, such as ``1 of 12 cliques …``."""
    full, cliques = manifold.frame.full, len(manifold.frame.trace.cliques)
    narrowed = sum(sizes[name] < full[name] for name in full)
    widened = sum(sizes[name] > full[name] for name in full)
    counts = {"narrowed": narrowed, "widened": widened}
    told = ", ".join(f"{n} of {cliques} cliques {how}" for how, n in counts.items() if n)
    if gone := len(manifold.frame.dropped):
        told = f"{told or 'full width'}, without {counted(gone, 'block')}"
    if more := sum(manifold.frame.added.values()):
        told = f"{told or 'full width'}, with {counted(more, 'more block')}"
    share = share_of_parameters(manifold, sizes)
    return f"{told or 'full width'}: {share:.0%} of the parameters"


def known_accuracy(
    metrics: Mapping[str, Any], width: float
) -> tuple[str, float, tuple[float, float]] | None:
    """What a manifold's own table says of a width, interpolated linearly between its rows.

    Args:
        metrics: as its provenance has them.
        width: of all cliques in scope.

    Returns:
        The metric's name, its value, and the two widths between which it lies; None where the table
        has none or does not reach as far.

    """
    from neumeta_cli.evaluate import MANIFOLD

    rows = [row for row in metrics.get("table", ()) if row.get("method") == MANIFOLD]
    if not rows or not rows[0].get("metrics"):
        return None
    name = next(iter(rows[0]["metrics"]))
    found = {row["width"]: row["metrics"][name] for row in rows if name in row["metrics"]}
    if width in found:
        return name, found[width], (width, width)
    for low, high in pairwise(sorted(found)):
        if low < width < high:
            share = (width - low) / (high - low)
            return name, (1 - share) * found[low] + share * found[high], (low, high)
    return None


def accuracy_line(manifold: "Manifold", width: float) -> str | None:
    """``known_accuracy`` for people; None where nothing is known."""
    from neumeta_cli.tasks import metric_named

    metrics = manifold.provenance.metrics
    longer = not manifold.inr.learnt.keys().isdisjoint(manifold.frame.added)
    known = None if manifold.frame.dropped or longer else known_accuracy(metrics, width)
    if known is None:
        return None
    name, value, (low, high) = known
    metric = metric_named(name)
    whole = known_accuracy(metrics, 1.0)
    beside = "" if whole is None or width == 1 else f", {metric.show(whole[1])} at full width"
    if low == high:
        return f"{name} {metric.show(value)} as measured at the fit{beside}"
    return (
        f"{name} about {metric.show(value)}, interpolated between widths {low:g} and {high:g} as "
        f"measured at the fit{beside}"
    )
