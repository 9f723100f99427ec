"""``neumeta info``."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from neumeta_cli.checkpoint import require_there
from neumeta_cli.cli.console import TerminalReporter, escape, say, table, write_json
from neumeta_cli.cli.gains import tell_export_next
from neumeta_cli.cli.options import ArchOption, Json, WeightsKeyOption
from neumeta_cli.reporting import counted

MOST_ROWS = 24  # of cliques or other entries that a table lists


def info(
    file: Annotated[
        Path,
        typer.Argument(
            help="Any file that neumeta reads or writes: a checkpoint, a manifold, an export, "
            "the state.pt of a run."
        ),
    ],
    arch: ArchOption = None,
    weights_key: WeightsKeyOption = None,
    json: Json = None,
) -> None:
    """Show what is in a file.

    The table has its kind, architecture, widths, sizes, recipe, origin and metrics; --json has all
    that is known. No code in the file is run.

    Example: neumeta info half.onnx
    """
    require_there(file)
    from neumeta_cli.export import describe

    document = describe(file, TerminalReporter(), arch, weights_key)
    write_json(json, document)
    if json != "-":
        say(_overview(document))
        if metrics := document.get("metrics"):
            say(_measured(metrics))
        for warning in document["warnings"]:
            say(f"[yellow]warning:[/] {escape(warning)}")
    if document["kind"] == "manifold":
        tell_export_next(json, file)


def _overview(document: Mapping[str, Any]) -> object:
    shown = [(name, cell(document)) for name, cell in FIELDS]
    made = table(document["file"], ["", ""], [[name, text] for name, text in shown if text])
    made.show_header = False
    made.columns[1].justify = "left"
    return made


def _measured(rows: list[dict[str, Any]]) -> object:
    """The measurements that a file keeps, whatever their metric."""
    known = ("method", "width", "parameters", "macs")
    metrics = list(dict.fromkeys(name for row in rows for name in row.get("metrics", {})))
    names = [n for n in known if any(n in row for row in rows)]
    cells = [
        [
            *(_number(row.get(name)) for name in names),
            *(_metric(name, row.get("metrics", {}).get(name)) for name in metrics),
        ]
        for row in rows
    ]
    names += metrics
    return table("measured when it was fitted", names, cells)


def _metric(name: str, value: float | None) -> str:
    """As the task that has a metric of this name shows it."""
    from neumeta_cli.tasks import metric_named

    return metric_named(name).show(value) if isinstance(value, float) else _number(value)


def _number(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)


def _count(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda document: _number(document.get(name))


def _arch(document: Mapping[str, Any]) -> str:
    arch = document.get("arch")
    if not arch:
        return ""
    kwargs = ", ".join(f"{key}={value}" for key, value in arch["kwargs"].items())
    return f"{arch['name']}({kwargs})" if kwargs else str(arch["name"])


def _input(document: Mapping[str, Any]) -> str:
    return "×".join(map(str, document.get("input_size", ())))


def _widths(document: Mapping[str, Any]) -> str:
    if "widths" in document:
        low, high = document["widths"]["trained"]
        return f"any; trained from {low:g} to {high:g}"
    return _number(document.get("width"))


def _channels(document: Mapping[str, Any]) -> str:
    sizes = list(document.get("sizes", {}).items())
    more = f", … {len(sizes) - MOST_ROWS:,} more" if len(sizes) > MOST_ROWS else ""
    return ", ".join(f"{name} {size}" for name, size in sizes[:MOST_ROWS]) + more


def _stored(document: Mapping[str, Any]) -> str:
    if "tensors" not in document:
        return ""
    dtypes = ", ".join(document["dtypes"])
    tensors, values = (counted(document[f"{name}s"], name) for name in ("tensor", "value"))
    return f"{tensors}, {values} ({dtypes})"


def _parts(document: Mapping[str, Any]) -> str:
    parts = document.get("bytes_by_part", {})
    return "; ".join(f"{part} {_number(taken)}" for part, taken in parts.items())


def _norms(document: Mapping[str, Any]) -> str:
    if "fold" not in document:
        return ""
    text = "folded" if document["fold"] else "kept as they are"
    if images := document.get("calibration_images"):
        text += f"; {counted(images, 'calibration image')} in the file"
    if fitted := document.get("calibrated"):
        text += f"; {fitted['fitted']} fitted to {counted(fitted['images'], 'image')}"
    return text


def _inr(document: Mapping[str, Any]) -> str:
    inr = document.get("inr")
    return f"{inr['kind']}, stored as {inr['store']}" if inr else ""


def _recipe(document: Mapping[str, Any]) -> str:
    recipe = document.get("recipe") or ""
    return str(recipe.get("name", "")) if isinstance(recipe, Mapping) else str(recipe)


def _origin(document: Mapping[str, Any]) -> str:
    origin = document.get("provenance") or {}
    parts = [origin.get("checkpoint", ""), origin.get("sha256") and f"SHA-256 {origin['sha256']}"]
    return ", ".join(part for part in parts if part)


def _shapes(name: str) -> Callable[[Mapping[str, Any]], str]:
    def text(document: Mapping[str, Any]) -> str:
        shapes = document.get(name, {}).items()
        return ", ".join(f"{key} {'×'.join(map(str, shape))}" for key, shape in shapes)

    return text


def _dropped(document: Mapping[str, Any]) -> str:
    blocks = document.get("dropped")
    return ", ".join(map(str, blocks)) if isinstance(blocks, list) else ""


def _added(document: Mapping[str, Any]) -> str:
    blocks = document.get("added")
    named = blocks.items() if isinstance(blocks, dict) else ()
    return ", ".join(f"{count} after {name}" for name, count in named)


FIELDS: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("kind", _count("kind")),
    ("permuted", lambda d: "yes" if d.get("permuted") else ""),
    ("format version", _count("format_version")),
    ("architecture", _arch),
    ("input", _input),
    ("width", _widths),
    ("channels", _channels),
    ("bytes", _count("bytes")),
    ("of which", _parts),
    ("parameters", _count("parameters")),
    ("MACs", _count("macs")),
    ("left out", _dropped),
    ("added", _added),
    ("number format", _count("dtype")),
    ("stored", _stored),
    ("INR", _inr),
    ("batch norms", _norms),
    ("inputs", _shapes("inputs")),
    ("outputs", _shapes("outputs")),
    ("opset", _count("opset")),
    ("step", _count("step")),
    ("seconds", _count("seconds")),
    ("recipe", _recipe),
    ("from", _origin),
)
