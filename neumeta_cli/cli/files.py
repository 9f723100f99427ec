"""``neumeta eval`` and ``export``."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from neumeta_cli import pipeline
from neumeta_cli.checkpoint import load_checkpoint
from neumeta_cli.cli.console import TerminalReporter, note, say, table, write_json
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
    parse_width,
    parse_widths,
)
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate import BATCHES, CHECKPOINT, MANIFOLD, evaluate_network, sweep
from neumeta_cli.export import DTYPES, Finish, accept_float32, describe, export_network, load
from neumeta_cli.manifold import Manifold, load_manifold
from neumeta_cli.recipe import DataSection, load_recipe
from neumeta_cli.resize import measure_cost
from neumeta_cli.tasks import load_task

SamplesOption = Annotated[
    int | None, typer.Option(min=0, metavar="K", help="Perturbed draws to average; 0: one, exact.")
]

FoldOption = Annotated[
    bool | None,
    typer.Option(
        "--fold/--no-fold",
        help="Fold batch norm into the layers before it. If left out, .onnx and .pt2 are folded, "
        "other files as the manifold has it.",
    ),
]
CalibrateOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Fit norm statistics to the images of a folder, which need no labels; biases where "
        "norms were folded before the fit.",
    ),
]
DtypeOption = Annotated[
    str,
    typer.Option(metavar="|".join(DTYPES), help="Number format of the network and of its input."),
]


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
        section = _data_section(data, recipe, loaded.provenance.recipe.get("data", {}))
        size = loaded.blueprint.input_size
        network = loaded.sample(1.0, samples=0)
        task = load_task(section, network, size, train=False, reporter=reporter)
        loaded.to(place)
        rows = sweep(loaded, task, chosen, None, counts, reporter, batches)
    else:
        accept_float32(loaded)
        document = describe(file)
        size = tuple(document.get("input_size") or load_checkpoint(file, arch).input_size)
        section = _data_section(data, recipe, document.get("data", {}))
        task = load_task(section, loaded, size, train=False, reporter=reporter)
        exported = document["kind"] == "network"
        method, width = (MANIFOLD, document["width"]) if exported else (CHECKPOINT, 1.0)
        rows = [evaluate_network(loaded.to(place), method, width, task, batches)]
    measured = [row.as_dict() for row in rows]
    write_json(json, {"file": str(file), "test_images": len(task.test), "rows": measured})
    if json != "-":
        say(rows_table(f"{file}, {len(task.test):,} test images", measured))


def export(
    manifold: Annotated[
        Path | None, typer.Argument(help="Default: that of the run that finished last.")
    ] = None,
    width: Annotated[
        str, typer.Option(metavar="W", help="Channels kept over channels, e.g. 0.5; above 1 grows.")
    ] = ...,  # type: ignore[assignment]
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Ends in .pt or .safetensors, or in .onnx or .pt2, which run without neumeta.",
        ),
    ] = ...,  # type: ignore[assignment]
    fold: FoldOption = None,
    calibrate: CalibrateOption = None,
    dtype: DtypeOption = "float32",
    samples: SamplesOption = None,
    json: Json = None,
    trust_code: TrustCode = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the network of one width to disk; neumeta_cli.load gives back .pt and .safetensors.

    An .onnx or .pt2 file is compared with the network in torch before it is kept.

    Example: neumeta export --width 0.5 -o small.onnx --dtype float16
    """
    kept = parse_width(width)
    path = manifold or pipeline.latest_manifold()
    note(f"manifold: {path}")
    loaded = load_manifold(path, trust_code)
    exported = export_network(
        loaded, output, kept, samples, TerminalReporter(), Finish(fold, calibrate, dtype)
    )
    cost = measure_cost(exported.model, loaded.blueprint.input_size)
    document = {
        "manifold": str(path),
        "output": str(output),
        "width": kept,
        "gamma": round(1 - kept, 6),
        "dtype": dtype,
        "sizes": exported.sizes,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "bytes": output.stat().st_size,
    }
    write_json(json, document)
    if json != "-":
        say(
            f"width {kept:g}: {cost.parameters:,} parameters, {cost.macs:,} MACs, "
            f"{output.stat().st_size:,} bytes"
        )
        say(f"written: {escape(str(output))}")


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


def _data_section(data: str | None, recipe: str | None, recorded: dict[str, Any]) -> DataSection:
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
