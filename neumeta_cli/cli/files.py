"""``neumeta eval``."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from neumeta_cli.checkpoint import load_checkpoint
from neumeta_cli.cli.console import TerminalReporter, say, table, write_json
from neumeta_cli.cli.options import (
    ArchOption,
    DataOption,
    Debug,
    Device,
    DownloadOption,
    Json,
    Quiet,
    TrustCode,
    choose_device,
    parse_counts,
    parse_widths,
)
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate import BATCHES, CHECKPOINT, MANIFOLD, evaluate_network, shown, sweep
from neumeta_cli.export import accept_float32, describe, load
from neumeta_cli.manifold import Manifold
from neumeta_cli.recipe import load_recipe
from neumeta_cli.sections import DataSection
from neumeta_cli.tasks import NOTHING_TO_READ, Metric, Task, load_task, task_class


def evaluate(
    file: Annotated[
        Path, typer.Argument(metavar="MANIFOLD|EXPORT|CHECKPOINT", help="What to measure.")
    ],
    data: DataOption = None,
    download: DownloadOption = False,
    widths: Annotated[
        str,
        typer.Option(
            metavar="W,W,…|FROM:TO:STEP",
            help="Widths of a manifold: kept over full channels, such as 1,0.5 or 0.25:1.25:0.05.",
        ),
    ] = "1,0.75,0.5,0.25",
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", metavar="NAME|FILE", help="Says how to read the data."),
    ] = None,
    arch: ArchOption = None,
    samples: Annotated[
        str | None,
        typer.Option(
            metavar="K,K,…",
            help="Perturbed draws to average, each in turn, such as 1,50; 0: one, exact.",
        ),
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Time batches of 1 and 64 here.")
    ] = True,
    device: Device = "auto",
    json: Json = None,
    trust_code: TrustCode = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure the task's metrics, cost and latency: a manifold at several widths, or one network.

    Latency is the median of warm forward passes on this machine.

    Example: neumeta eval manifold.safetensors --data cifar10/ --widths 0.25:1:0.25 --samples 1,50
    """
    place, reporter = choose_device(device), TerminalReporter()
    chosen = parse_widths(widths)
    counts = [] if samples is None else parse_counts(samples)
    batches = BATCHES if latency else ()
    loaded = load(file, arch, trust_code)
    if isinstance(loaded, Manifold):
        for width in chosen:
            loaded.frame.sizes(width)  # refuses a bad width before any data is read
        section, kind = how_to_read(data, recipe, loaded.provenance.recipe, trust_code, download)
        size = loaded.input_size
        network = loaded.sample(1.0, samples=0)
        task = load_task(section, network, size, train=False, reporter=reporter, kind=kind)
        loaded.to(place)
        rows = sweep(loaded, task, chosen, None, counts, reporter, batches)
    else:
        accept_float32(loaded)
        document = describe(file)
        size = tuple(document.get("input_size") or load_checkpoint(file, arch).input_size)
        section, kind = how_to_read(data, recipe, document, trust_code, download)
        task = load_task(section, loaded, size, train=False, reporter=reporter, kind=kind)
        exported = document["kind"] == "network"
        method, width = (MANIFOLD, document["width"]) if exported else (CHECKPOINT, 1.0)
        rows = [evaluate_network(loaded.to(place), method, width, task, batches)]
    measured = [row.as_dict() for row in rows]
    metrics = shown(task.metrics, rows)
    written = {"metrics": [m.as_dict() for m in metrics], "rows": measured}
    write_json(json, {"file": str(file), "test_images": len(task.test), **written})
    if json != "-":
        say(rows_table(f"{file}, {len(task.test):,} test images", measured, metrics))


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


def how_to_read(
    data: str | None,
    recipe: str | None,
    recorded: dict[str, Any],
    trust_code: bool,
    download: bool = False,
) -> tuple[DataSection, type[Task]]:
    """How to read the data: the recipe named, else what a file recorded, else ImageNet's way.

    Args:
        data: the folder.
        recipe: name or file.
        recorded: with the keys ``data`` and ``task`` of a recipe, if the file has them.
        trust_code: import the task that a file names, if it is a user's own.
        download: fetch the data first.

    """
    if recipe is not None:
        named = load_recipe(recipe)
        section, kind = named.data, task_class(named.task, trust_code=True)
    else:
        section = DataSection(**recorded.get("data", {}))
        kind = task_class(recorded.get("task", "classification"), trust_code)
    if download:
        section = section.model_copy(update={"download": True})
    if data is None:
        if section.root is None and section.format not in NOTHING_TO_READ:
            raise NeumetaError("no data folder given; pass --data DIR, or --recipe NAME")
        return section, kind
    return section.at(data), kind
