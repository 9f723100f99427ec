"""The table of networks that were measured."""

from collections.abc import Callable, Sequence
from functools import partial

from neumeta_cli.cli.console import table
from neumeta_cli.evaluate import BATCHES, Row
from neumeta_cli.tasks import Metric


def rows_table(title: str, rows: Sequence[Row], metrics: Sequence[Metric]) -> object:
    """The table of a sweep; columns that no row has are left out."""
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("network", lambda row: row.method),
        ("K", lambda row: "" if row.samples is None else str(row.samples)),
        ("width", lambda row: f"{row.width:g}"),
        ("γ", lambda row: f"{row.gamma:.0%}"),
        ("parameters", lambda row: f"{row.cost.parameters:,}"),
        ("MACs", lambda row: f"{row.cost.macs:,}"),
        ("size (bytes)", lambda row: f"{row.cost.bytes:,}"),
        *((f"ms, batch {b}", partial(_milliseconds, batch=b)) for b in BATCHES),
        *((metric.name, partial(_value, metric=metric)) for metric in metrics),
    ]
    shown = [(name, [cell(row) for row in rows]) for name, cell in columns]
    if len({row.samples for row in rows} - {None}) < 2:
        shown = [(name, cells) for name, cells in shown if name != "K"]
    shown = [(name, cells) for name, cells in shown if any(cells)]
    return table(title, [n for n, _ in shown], list(zip(*(c for _, c in shown), strict=True)))


def _value(row: Row, metric: Metric) -> str:
    return metric.show(row.metrics[metric.name])


def _milliseconds(row: Row, batch: int) -> str:
    seconds = row.latency.get(batch)
    return "" if seconds is None else f"{1000 * seconds:.2f}"
