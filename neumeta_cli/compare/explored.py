"""What the report's page is worked with: points to choose from, and where they come from."""

import base64
import csv
import io
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neumeta_cli import __version__
from neumeta_cli.compare.charts import DASHED, colour
from neumeta_cli.compare.methods import NeuMeta
from neumeta_cli.compare.results import Comparison, MergedRow, MethodResult
from neumeta_cli.runs import MANIFOLD_FILE

COSTS = {  # what a width is chosen by
    "parameters": "parameters",
    "macs": "MACs",
    "bytes": "bytes",
    "ms": "ms for one input",
}
START = 0.5  # where the slider begins
DIGITS = 6


def explored(comparison: Comparison, run: Path) -> dict[str, Any]:
    """What the slider, the headline, the downloads and the last table of the page show.

    Args:
        comparison: or a fit in the same form.
        run: its folder, which may hold a manifold.

    """
    metric = comparison.metrics[0]
    ours = next((m for m in comparison.methods if m.method == NeuMeta.name), None)
    page = _points(comparison, ours, _manifold(ours, run))
    widths = page["widths"]
    start = START if widths[0] <= START <= widths[-1] else widths[0]
    document = _without_folders(comparison.as_dict())
    return {
        "page": page,
        "page_json": _inside_script(page),
        "metric": metric,
        "start": start,
        "has_ours": ours is not None,
        "ours_label": NeuMeta.label,
        "shown_costs": [
            {"name": name, "title": title} for name, title in COSTS.items() if page["costs"][name]
        ],
        "headline": _headline(comparison, ours),
        "card": _card(comparison, run),
        "recipe": json.dumps(document["recipe"], indent=1, ensure_ascii=False),
        "file": "".join(c if c.isalnum() or c in "-_" else "_" for c in comparison.recipe.name),
        "csv": _embedded(_as_csv(comparison), "text/csv"),
        "json": _embedded(json.dumps(document, ensure_ascii=False), "application/json"),
    }


def _points(
    comparison: Comparison, ours: MethodResult | None, manifold: Path | None
) -> dict[str, Any]:
    """All that was measured, by width, as the page's program takes it."""
    metric = comparison.metrics[0]
    methods = [
        {
            "name": method.method,
            "label": method.label,
            "colour": colour(method.label, number),
            "dashed": method.method in DASHED,
            "ours": method is ours,
            "points": [
                [_width(row), metric.scale * row.metrics[metric.name]] for row in _by_width(method)
            ],
        }
        for number, method in enumerate(comparison.methods)
    ]
    chosen = comparison.methods if ours is None else [ours]
    rows = {_width(row): row for method in chosen for row in method.rows}
    latency = {w: comparison.latency_at(row.gamma) for w, row in rows.items()}
    costs = {
        "parameters": [[w, row.parameters] for w, row in sorted(rows.items())],
        "macs": [[w, row.macs] for w, row in sorted(rows.items())],
        "bytes": [[w, row.bytes] for w, row in sorted(rows.items())],
        "ms": [[w, 1000 * t.seconds_batch_1] for w, t in sorted(latency.items()) if t is not None],
    }
    cost = comparison.checkpoint.cost
    whole = {"parameters": cost.parameters, "macs": cost.macs, "bytes": cost.bytes}
    seconds = comparison.checkpoint.latency.get(1)
    return {
        "metric": metric.as_dict(),
        "checkpoint": metric.scale * comparison.checkpoint.metrics[metric.name],
        "methods": methods,
        "widths": sorted(rows),
        "costs": costs,
        "full": whole | ({} if seconds is None else {"ms": 1000 * seconds}),
        "command": None if manifold is None else _command(manifold, comparison.recipe.model.arch),
    }


def _command(manifold: Path, arch: str) -> str:
    """What exports a network, but for its width; a network of a user's own needs permission."""
    trust = " --trust-code" if ":" in arch else ""
    return f"neumeta export {shlex.quote(_here(manifold))}{trust}"


def _headline(comparison: Comparison, ours: MethodResult | None) -> str:
    """What half of the channels cost, or the width nearest to that."""
    if ours is None:
        return ""
    metric, whole = comparison.metrics[0], comparison.checkpoint
    row = min(ours.rows, key=lambda row: abs(_width(row) - START))
    return (
        f"At width {_width(row):g}: {metric.name} {row.shown(metric)} beside "
        f"{metric.scaled(whole.metrics[metric.name])} of the checkpoint, with "
        f"{row.parameters / whole.cost.parameters:.0%} of its parameters and "
        f"{row.macs / whole.cost.macs:.0%} of its MACs."
    )


def _card(comparison: Comparison, run: Path) -> list[tuple[str, str]]:
    """What a reader has to know to judge the figures, or to make them again."""
    recipe, written = comparison.recipe, comparison.recipe.written
    told = {
        "network": recipe.model.arch,
        "checkpoint": Path(recipe.model.checkpoint or "").name,
        "task": str(written.get("task", "")),
        "data": str(written.get("data", {}).get("format", "")),
        "test images": f"{comparison.test_images:,}",
        "scope": recipe.scope if isinstance(recipe.scope, str) else ", ".join(recipe.scope),
        "seeds": str(comparison.seeds),
        "neumeta": __version__,
        "this page": f"neumeta report {shlex.quote(_here(run))}",
        "measured on": ", ".join(f"{k} {v}" for k, v in (comparison.hardware or {}).items()),
    }
    return [(name, value) for name, value in told.items() if value]


def _manifold(ours: MethodResult | None, run: Path) -> Path | None:
    """The manifold that networks can be exported from: of a fit, or of the first seed."""
    folders = [] if ours is None else [run / folder for folder in ours.folders[:1]]
    found = (folder / MANIFOLD_FILE for folder in (run, *folders))
    return next((path for path in found if path.exists()), None)


def _here(path: Path) -> str:
    """A path from the current folder; its name alone where it lies elsewhere."""
    relative = os.path.relpath(path)
    return path.resolve().name if relative.startswith(os.pardir) else Path(relative).as_posix()


def _without_folders(value: Any) -> Any:
    """JSON in which no path tells where on this machine something lies."""
    if isinstance(value, Mapping):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value


def _as_csv(comparison: Comparison) -> str:
    file = io.StringIO()
    names = [metric.name for metric in comparison.metrics]
    writer = csv.writer(file)
    writer.writerow(["method", "width", "gamma", "parameters", "macs", "bytes", *names])
    for method in comparison.methods:
        for row in _by_width(method):
            cost = [_width(row), row.gamma, row.parameters, row.macs, row.bytes]
            writer.writerow([method.label, *cost, *(row.metrics.get(name) for name in names)])
    return file.getvalue()


def _by_width(method: MethodResult) -> list[MergedRow]:
    return sorted(method.rows, key=_width)


def _width(row: MergedRow) -> float:
    return round(row.width, DIGITS)


def _embedded(text: str, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def _inside_script(content: Any) -> str:
    """JSON that ends no script, whatever names are in it."""
    return json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
