"""How widths and budgets are given on the command line."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from neumeta_cli.cli.options import WIDEST, parse_width
from neumeta_cli.errors import NeumetaError

if TYPE_CHECKING:
    from neumeta_cli.export import Budget, Choice, Wish
    from neumeta_cli.export.choose.budget import Part

COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}

WidthOption = Annotated[
    list[str] | None,
    typer.Option(
        "--width",
        metavar="W|PATTERN=W",
        help="Fraction of channels to keep (0.5 or 50% is half; above 1 adds channels). PATTERN=W "
        "sets it for some modules only (a path, the start of one, or a glob: layer3=0.25) or for a "
        "clique; may be repeated. A W without a pattern is then for all others.",
    ),
]
ChannelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--channels",
        metavar="MODULE=N",
        help="Output channels of a module, and of what is tied to it; may be repeated.",
    ),
]
RoundOption = Annotated[
    int,
    typer.Option("--round-to", min=1, metavar="N", help="Round channel counts to multiples of N."),
]
MaxParams = Annotated[
    str | None,
    typer.Option(
        metavar="N|P%", help="Most parameters, e.g. 100k; or of the whole network's, e.g. 30%."
    ),
]
MaxMacs = Annotated[
    str | None,
    typer.Option(metavar="N|P%", help="Most multiply-accumulates for one input, e.g. 20M or 30%."),
]
MaxSize = Annotated[
    str | None, typer.Option(metavar="BYTES|P%", help="Largest file, e.g. 400KB or 30%.")
]
MaxLatency = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Longest time for one input on this machine, e.g. 5ms."),
]
TargetAccuracy = Annotated[
    float | None,
    typer.Option(
        metavar="A",
        help="Find the narrowest network that reaches this metric on one half of the test images "
        "of --data (it is then measured on the other half): top-1 or mIoU from 0 to 1, or the NLL "
        "of an autoencoder.",
    ),
]
SearchOption = Annotated[
    bool,
    typer.Option(
        "--search",
        help="Search for a width for each clique within the budget (with --depth auto for a depth "
        "too), by the loss on one half of the test images; the result is measured on the other.",
    ),
]


def parse_wish(
    widths: Sequence[str] | None,
    channels: Sequence[str] | None,
    multiple: int,
    force: bool = False,
) -> "Wish":
    """``--width``, ``--channels``, ``--round-to`` and ``--force`` as one wish."""
    from neumeta_cli.export import Wish

    named: list[tuple[str, float]] = []
    bare: list[float] = []
    for text in widths or ():
        pattern, equals, number = text.rpartition("=")
        if equals:
            named.append((pattern, parse_width(number, force)))
        else:
            bare.append(parse_width(number, force))
    if len(bare) > 1:
        raise NeumetaError("--width was given twice without a pattern; write it as layer3=0.25")
    counts: list[tuple[str, int]] = []
    for text in channels or ():
        module, equals, number = text.rpartition("=")
        if not equals or not number.strip().isdecimal():
            raise NeumetaError(f"--channels {text}: write it as MODULE=N, such as conv1=8")
        counts.append((module, int(number)))
    return Wish(bare[0] if bare else None, tuple(named), tuple(counts), multiple)


def refuse_absurd(choice: "Choice") -> None:
    """Refuse numbers of channels that are hardly meant.

    Raises:
        NeumetaError: names the clique that would be more than ``WIDEST`` times as wide.

    """
    for name, width in choice.named.items():
        if width > WIDEST:
            full = choice.full[name]
            raise NeumetaError(
                f"{name} would have {width * full:,.0f} channels, {width:,.3g} times its {full:,}; "
                "if that is meant, say --force"
            )


def parse_budget(
    parameters: str | None, macs: str | None, size: str | None, latency: str | None
) -> "Budget":
    """The budget's options as numbers."""
    from neumeta_cli.export.choose.budget import OPTIONS, Budget

    return Budget(
        _part(parameters) or _amount(OPTIONS["parameters"], parameters, COUNTS, "100k or 30%"),
        _part(macs) or _amount(OPTIONS["macs"], macs, COUNTS, "20M or 30%"),
        _part(size) or _amount(OPTIONS["bytes"], size, {"": 1.0, **BYTES}, "400KB or 30%"),
        _amount(OPTIONS["seconds"], latency, SECONDS, "5ms"),
    )


def _part(text: str | None) -> "Part | None":
    """A share of the whole network, such as 30%; None: it is none."""
    from neumeta_cli.export.choose.budget import Part

    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", text or "")
    return Part(float(found[1]) / 100) if found else None


def _amount(
    option: str, text: str | None, units: Mapping[str, float], example: str
) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-zµ]*)\s*", text.lower())
    try:
        number = float(found[1]) * units[found[2]] if found else 0.0
    except (ValueError, KeyError):
        number = 0.0
    if not 0 < number < math.inf:
        raise NeumetaError(f"{option} {text}: give a positive amount, such as {example}")
    return number
