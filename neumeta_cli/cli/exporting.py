"""``neumeta export``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from neumeta_cli import pipeline
from neumeta_cli.cli.console import TerminalReporter, note, say, write_json
from neumeta_cli.cli.options import Debug, Json, Quiet, TrustCode, parse_width
from neumeta_cli.export import DTYPES, Finish, export_network
from neumeta_cli.manifold import load_manifold
from neumeta_cli.resize import measure_cost

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
