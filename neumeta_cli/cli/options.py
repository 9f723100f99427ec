"""Options that several commands share."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neumeta_cli.cli.completing import complete_arch, complete_device, complete_recipe
from neumeta_cli.errors import NeumetaError

if TYPE_CHECKING:
    import torch

    from neumeta_cli.trace import Inputs

MOST_WIDTHS = 1000
WIDEST = 4.0  # times the channels of the checkpoint; more is hardly ever meant


RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        metavar="NAME|FILE",
        autocompletion=complete_recipe,
        help="Name or file of a recipe; see: neumeta recipes list.",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        metavar="NAME|FILE",
        autocompletion=complete_recipe,
        help="Name or file of a recipe; see: neumeta recipes list. Default: one made for the "
        "network and the images.",
    ),
]
DataRecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        metavar="NAME|FILE",
        autocompletion=complete_recipe,
        help="Recipe that says how to read the data.",
    ),
]
SaveRecipe = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Keep the automatic recipe in this file, to edit it."),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="cpu|cuda|auto",
        autocompletion=complete_device,
        help="Where to compute; auto takes a GPU if there is one.",
    ),
]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the result as JSON; - is stdout."),
]
ArchOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        autocompletion=complete_arch,
        help="Architecture: a timm or torchvision name (also timm/…, torchvision/…), one of ours, "
        "or package.module:factory. Found from the file if left out.",
    ),
]
InputSizeOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="C,H,W",
        help="Size of the input without the batch dimension, if it is not the usual one. Repeat it "
        "for each input of the network; for token numbers, LENGTH:int64.",
    ),
]
ImageSizeOption = Annotated[
    str | None,
    typer.Option(
        "--input-size",
        metavar="C,H,W",
        help="Size of the images that the network takes, if it is not the usual one.",
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Folder of the data: train/<class>/*.jpg and test/ or val/ likewise, or as the "
        "recipe's data.format says.",
    ),
]
TestDataOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Folder of images for testing, in class folders; those of --data are then for "
        "training alone, and need no labels.",
    ),
]
ScopeOption = Annotated[
    str | None,
    typer.Option(
        metavar="all|paper|PATTERN,…",
        help="Which cliques morph: all, paper (inner channels of the last block), or patterns of "
        "their names, such as layer3.*; see: neumeta trace. Instead of the recipe's.",
    ),
]
SkipBrokenOption = Annotated[
    bool,
    typer.Option("--skip-broken", help="Leave out, and count, files that are no readable images."),
]
DownloadOption = Annotated[
    bool, typer.Option("--download", help="Download the data into that folder, if torchvision can.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a field of the recipe, e.g. fit.epochs=20; may be repeated.",
    ),
]
CheckpointOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Weights to start from.")
]
WeightsKeyOption = Annotated[
    str | None,
    typer.Option(
        "--weights-key",
        metavar="KEY",
        help="Which weights in the file, if it has several: their key, such as state_dict_ema, or "
        "the prefix of their names.",
    ),
]
EpochsOption = Annotated[
    int | None, typer.Option(help="Number of epochs, instead of the recipe's.")
]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Allow running the Python module that the file names.")
]
Force = Annotated[
    bool, typer.Option("--force", help=f"Take widths above {WIDEST:g} times the checkpoint's.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
CheckpointArgument = Annotated[Path, typer.Argument(help="Weights file.", metavar="CHECKPOINT")]


def keep_what_is_there(path: Path, overwrite: bool, named_by: str = "-o") -> None:
    """Refuse to write over what a command did before, or anybody else.

    Args:
        path: of what is to be written.
        overwrite: whether the user said so.
        named_by: the option that names another.

    Raises:
        NeumetaError: something is there.

    """
    if path.exists() and not overwrite:
        raise NeumetaError(f"{path} exists; name another with {named_by}, or say --overwrite")


def check_recipe_to_save(path: Path | None, overwrite: bool) -> None:
    """Refuse to write an automatic recipe over one that somebody may have edited.

    Raises:
        NeumetaError: something is there.

    """
    if path is not None:
        keep_what_is_there(path, overwrite, "--save-recipe")


def with_fields(
    overrides: list[str] | None, scope: str | None, input_size: str | None = None
) -> list[str]:
    """What ``--set`` says, ``--scope`` and ``--input-size``."""
    said = list(overrides or [])
    if scope is not None:
        names = [name.strip() for name in scope.split(",")]
        said.append(f"scope={json.dumps(names[0] if len(names) == 1 else names)}")
    if (size := parse_image_size(input_size)) is not None:
        said.append(f"model.input_size={list(size)}")
    return said


def parse_image_size(text: str | None) -> "tuple[int, int, int] | None":
    """``C,H,W`` as numbers.

    Raises:
        NeumetaError: these are no three positive numbers.

    """
    if text is None:
        return None
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if len(numbers) != 3 or min(numbers) < 1:
        raise NeumetaError(f"--input-size {text}: give channels, height and width, as 3,224,224")
    channels, height, width = numbers
    return channels, height, width


def parse_inputs(texts: list[str] | None) -> "Inputs | None":
    """``C,H,W`` as numbers; several, or one with a ``:dtype``, as example tensors."""
    if not texts:
        return None
    import torch

    from neumeta_cli.trace import BATCH

    parsed = [_parse_input(text) for text in texts]
    (size, dtype), *more = parsed
    if not more and dtype is torch.float32:
        return size
    return tuple(torch.empty(BATCH, *size, dtype=dtype, device="meta") for size, dtype in parsed)


def _parse_input(text: str) -> "tuple[tuple[int, ...], torch.dtype]":
    import torch

    numbers, colon, kind = text.partition(":")
    parts = numbers.split(",")
    dtype = getattr(torch, kind, None) if colon else torch.float32
    if not all(p.strip().isdecimal() and int(p) > 0 for p in parts):
        raise NeumetaError(f"--input-size {text}: give positive numbers, such as 3,224,224")
    if not isinstance(dtype, torch.dtype):
        raise NeumetaError(f"--input-size {text}: no such type {kind!r}; try 16:int64")
    return tuple(map(int, parts)), dtype


def parse_width(text: str, force: bool = False) -> float:
    """A width as people type it, ``0.5`` or ``50%``; whether it is positive is checked at its use.

    Args:
        text: as typed.
        force: whether a width above ``WIDEST`` is taken.

    Raises:
        NeumetaError: it is no number, or too large to be meant.

    """
    number = text.strip().removesuffix("%")
    try:
        width = float(number) / (1.0 if number == text.strip() else 100.0)
    except ValueError as error:
        raise NeumetaError(
            f"width {text!r} is not a number; 0.5 (or 50%) keeps half of the channels"
        ) from error
    if force or not WIDEST < width < math.inf:
        return width
    likely = width / 100
    meant = f"did you mean {likely:g} ({number}%)? " if likely <= WIDEST else ""
    raise NeumetaError(
        f"width {text}: {meant}{width:g} times as many channels as the checkpoint has needs --force"
    )


def parse_widths(text: str, force: bool = False) -> list[float]:
    """``1,0.75,50%``, or from, to and step, ``0.25:1.25:0.05``, or both."""
    widths: list[float] = []
    for part in text.split(","):
        ends = [parse_width(number, force) for number in part.split(":")]
        if len(ends) == 1:
            widths += ends
            continue
        if len(ends) != 3 or not ends[2] > 0 or not ends[0] <= ends[1]:
            raise NeumetaError(f"widths {part!r}: a range is FROM:TO:STEP, such as 0.25:1.25:0.05")
        steps = (ends[1] - ends[0]) / ends[2] + 1e-6
        if not steps < MOST_WIDTHS:
            raise NeumetaError(f"widths {part!r}: more than {MOST_WIDTHS}; use a larger step")
        count = math.floor(steps) + 1
        widths += [round(ends[0] + n * ends[2], 9) for n in range(count)]
    return list(dict.fromkeys(widths))


def parse_counts(text: str) -> list[int]:
    """``1,50``: whole numbers, none of them negative."""
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise NeumetaError(f"--samples {text}: give whole numbers, such as 1,50")
    return [int(part) for part in text.split(",")]


def choose_device(name: str) -> str:
    """``auto`` resolved; a device that is not there is refused."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise NeumetaError(f"--device {name}: use cpu, cuda or auto") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise NeumetaError(f"--device {name}: there is no CUDA device here; use cpu")
    return name
