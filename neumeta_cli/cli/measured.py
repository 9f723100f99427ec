"""The table of networks that were measured."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from neumeta_cli.cli.console import table
from neumeta_cli.evaluate import BATCHES
from neumeta_cli.tasks import Metric


def rows_table(title: str, rows: Sequence[dict[str, Any]], metrics: Sequence[Metric]) -> object:
    """The table of a sweep, from rows as dictionaries; columns that no row has are left out."""
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("network", lambda r: r["method"]),
        ("K", lambda r: str(r.get("samples", ""))),
        ("width", lambda r: f"{r['width']:g}"),
        ("γ", lambda r: f"{r['gamma']:.0%}"),
        ("parameters", lambda r: f"{r['parameters']:,}"),
        ("MACs", lambda r: f"{r['macs']:,}"),
        ("size (bytes)", lambda r: f"{r['bytes']:,}"),
        *((f"ms, batch {b}", partial(_milliseconds, batch=b)) for b in BATCHES),
        *((metric.name, partial(_value, metric=metric)) for metric in metrics),
    ]
    shown = [(name, [cell(row) for row in rows]) for name, cell in columns]
    if len({row.get("samples") for row in rows} - {None}) < 2:
        shown = [(name, cells) for name, cells in shown if name != "K"]
    shown = [(name, cells) for name, cells in shown if any(cells)]
    return table(title, [n for n, _ in shown], list(zip(*(c for _, c in shown), strict=True)))


def _value(row: dict[str, Any], metric: Metric) -> str:
    return metric.show(row["metrics"][metric.name])


def _milliseconds(row: dict[str, Any], batch: int) -> str:
    seconds = row.get(f"seconds_batch_{batch}")
    return "" if seconds is None else f"{1000 * seconds:.2f}"
