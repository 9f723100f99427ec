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
    Json,
    Quiet,
    TrustCode,
    choose_device,
    parse_counts,
    parse_widths,
)
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate import BATCHES, CHECKPOINT, MANIFOLD, evaluate_network, sweep
from neumeta_cli.export import accept_float32, describe, load
from neumeta_cli.manifold import Manifold
from neumeta_cli.recipe import DataSection, load_recipe
from neumeta_cli.tasks import load_task


def evaluate(
    file: Annotated[
        Path, typer.Argument(metavar="MANIFOLD|EXPORT|CHECKPOINT", help="What to measure.")
    ],
    data: DataOption = None,
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
    """Measure accuracy, cost and latency: a manifold at several widths, or one network.

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
            loaded.sizes(width)  # refuses a bad width before any data is read
        section = data_section(data, recipe, loaded.provenance.recipe.get("data", {}))
        size = loaded.blueprint.input_size
        network = loaded.sample(1.0, samples=0)
        task = load_task(section, network, size, train=False, reporter=reporter)
        loaded.to(place)
        rows = sweep(loaded, task, chosen, None, counts, reporter, batches)
    else:
        accept_float32(loaded)
        document = describe(file)
        size = tuple(document.get("input_size") or load_checkpoint(file, arch).input_size)
        section = data_section(data, recipe, document.get("data", {}))
        task = load_task(section, loaded, size, train=False, reporter=reporter)
        exported = document["kind"] == "network"
        method, width = (MANIFOLD, document["width"]) if exported else (CHECKPOINT, 1.0)
        rows = [evaluate_network(loaded.to(place), method, width, task, batches)]
    measured = [row.as_dict() for row in rows]
    write_json(json, {"file": str(file), "test_images": len(task.test), "rows": measured})
    if json != "-":
        say(rows_table(f"{file}, {len(task.test):,} test images", measured))


def rows_table(title: str, rows: Sequence[dict[str, Any]]) -> object:
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
        ("top-1", lambda r: f"{r['accuracy']:.2%}"),
    ]
    shown = [(name, [cell(row) for row in rows]) for name, cell in columns]
    if len({row.get("samples") for row in rows} - {None}) < 2:
        shown = [(name, cells) for name, cells in shown if name != "K"]
    shown = [(name, cells) for name, cells in shown if any(cells)]
    return table(title, [n for n, _ in shown], list(zip(*(c for _, c in shown), strict=True)))


def _milliseconds(row: dict[str, Any], batch: int) -> str:
    seconds = row.get(f"seconds_batch_{batch}")
    return "" if seconds is None else f"{1000 * seconds:.2f}"


def data_section(data: str | None, recipe: str | None, recorded: dict[str, Any]) -> DataSection:
    """How to read the data: the recipe named, else what the file recorded, else ImageNet's way."""
    if recipe is not None:
        section = load_recipe(recipe).data
    elif recorded:
        section = DataSection(**recorded)
    else:
        section = DataSection()
    if data is None:
        if section.root is None and section.format != "digits":
            raise NeumetaError("no data folder given; pass --data DIR, or --recipe NAME")
        return section
    return section.at(data)
