"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from neumeta_cli.cli.console import Settings
from neumeta_cli.errors import NeumetaError


def _set_quiet(value: bool) -> bool:
    Settings.quiet = Settings.quiet or value
    return value


def _set_debug(value: bool) -> bool:
    Settings.debug = Settings.debug or value
    return value


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_set_quiet, help="Print errors only.")
]
Debug = Annotated[
    bool, typer.Option("--debug", callback=_set_debug, help="Show the traceback of an error.")
]
Device = Annotated[
    str, typer.Option(metavar="cpu|cuda|auto", help="Where to compute; auto takes a GPU if any.")
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the result as JSON; - is stdout."),
]
ArchOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Architecture: a timm or torchvision name (also timm/…, torchvision/…), one of ours, "
        "or package.module:factory. Found from the file if left out.",
    ),
]
InputSizeOption = Annotated[
    str | None, typer.Option(metavar="C,H,W", help="Input size, where it is not the usual one.")
]
DataOption = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Folder with train/<class>/*.jpg and test/ or val/ likewise."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe field, e.g. fit.epochs=20."),
]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Import the user's module that the file names.")
]
CheckpointArgument = Annotated[Path, typer.Argument(help="Weights file.", metavar="CHECKPOINT")]


def parse_input_size(text: str | None) -> tuple[int, int, int] | None:
    """``C,H,W`` as three positive numbers."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 3 or not all(p.strip().isdigit() and int(p) > 0 for p in parts):
        raise NeumetaError(f"--input-size {text}: give three positive numbers, such as 3,224,224")
    channels, height, width = map(int, parts)
    return channels, height, width


def parse_width(text: str) -> float:
    """A width as the user typed it; whether it is positive is checked where it is used."""
    try:
        return float(text)
    except ValueError as error:
        raise NeumetaError(
            f"width {text!r} is not a number; 0.5 keeps half of the channels"
        ) from error


def choose_device(name: str) -> str:
    """``auto`` resolved; a device that is not there is refused."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise NeumetaError(f"--device {name}: use cpu, cuda or auto") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise NeumetaError(f"--device {name}: there is no CUDA device here; use cpu")
    return name
