"""Which arithmetic is quicker for a network on this machine, found by trying both.

Bfloat16 is quicker where the processor computes in it and the network's layers are large. Elsewhere
it is made of float32 and conversions, and costs up to 25 times as much (depthwise convolutions).
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from neumeta_cli.checkpoint import write_text
from neumeta_cli.documents import read_json
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Reporter, counted

PRECISION_FILE = "precision.json"
PRECISIONS = ("float32", "bfloat16")
SHARE = 8  # of a batch, one image in so many, is tried first
HOPELESS = 1.5  # times as long on these images: the whole batch is not tried
CLEAR = 1.03  # times as long in float32, or more: then bfloat16 is taken
STEPS, STEPS_TO_STEPS = 3, 100  # at most so many different steps, one for each 100 of the fit
REPEATS = 3
MOMENT = 60  # seconds

Rehearsal = Callable[[str, int, int], None]  # precision, which step, on how many images
Agree = Callable[[bool], bool]  # whether the first of several processes says so


@dataclass(frozen=True)
class Choice:
    """A precision, and why.

    Attributes:
        precision: ``float32`` or ``bfloat16``.
        seconds: of a step in each.
        images: in such a step.
        reason: where it was not the seconds.

    """

    precision: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    images: int = 0
    reason: str = ""

    def told(self) -> str:
        """One line."""
        if self.reason:
            return f"precision: {self.precision}; {self.reason}"
        other = next(p for p in PRECISIONS if p != self.precision)
        return (
            f"precision: {self.precision}, {self.seconds[self.precision]:.3g} s for "
            f"{counted(self.images, 'image')}; {other} {self.seconds[other]:.3g} s"
        )


def in_words(seconds: float) -> str:
    """A time as people say it: ``40 s``, ``3 min``, ``2.5 h``."""
    if seconds < MOMENT:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def choose_precision(
    rehearse: Rehearsal,
    images: int,
    steps: int,
    device: torch.device,
    agree: Agree = bool,
    least: int = 4,
) -> Choice:
    """Rehearse a few steps in both precisions, in turns, and take the quicker one.

    Float32 wins where the difference is too small to be sure of, so that two fits on one machine
    mostly choose the same.

    Args:
        rehearse: takes a step and changes nothing.
        images: in a batch.
        steps: that the whole fit will take; a short one is rehearsed less.
        device: where they are computed.
        agree: of several processes.
        least: images that a step can be taken on.

    """

    def seconds(precision: str, number: int, count: int) -> float:
        start = time.perf_counter()
        rehearse(precision, number, count)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    few = max(min(images, least), images // SHARE)
    try:
        first = {p: min(seconds(p, 0, few) for _ in range(2)) for p in PRECISIONS}
    except (RuntimeError, NotImplementedError) as error:
        rehearse("float32", 0, few)  # an error that is not bfloat16's is raised here
        return Choice("float32", reason=f"bfloat16 does not run: {str(error).splitlines()[0]}")
    if agree(first["bfloat16"] > HOPELESS * first["float32"]):
        return Choice("float32", _rounded(first), few)
    total = dict.fromkeys(PRECISIONS, 0.0)
    tried = min(STEPS, 1 + steps // STEPS_TO_STEPS)
    for number in range(tried):
        found: dict[str, list[float]] = {p: [] for p in PRECISIONS}
        for _ in range(1 + REPEATS):
            for precision in PRECISIONS:
                found[precision].append(seconds(precision, number, images))
        for precision, times in found.items():
            total[precision] += min(times[1:]) / tried
    quicker = agree(total["float32"] > CLEAR * total["bfloat16"])
    return Choice("bfloat16" if quicker else "float32", _rounded(total), images)


def settled_precision(
    asked: str,
    choose: Callable[[], Choice],
    section: str,
    folder: Path | None,
    resumed: bool,
    writes: bool,
    reporter: Reporter,
) -> str:
    """What a recipe asks for; for ``auto``, what the folder says when resumed, or is found now.

    Args:
        asked: by the recipe.
        choose: finds it.
        section: of the recipe that asks.
        folder: which keeps what was found; nowhere if None.
        resumed: whether the folder's word counts.
        writes: whether this process tells and keeps it.
        reporter: is told.

    Raises:
        NeumetaError: the folder's file is damaged or cannot be written.

    """
    if asked != "auto":
        return asked
    path = None if folder is None else folder / PRECISION_FILE
    if resumed and path is not None and path.exists():
        return _read(path, section)
    choice = choose()
    if writes:
        reporter.tell(choice.told())
    if path is not None and writes:
        write_text(path, json.dumps(asdict(choice), indent=1, ensure_ascii=False) + "\n")
    return choice.precision


def _read(path: Path, section: str) -> str:
    try:
        precision = read_json(path.read_text("utf-8"))["precision"]
        if precision not in PRECISIONS:
            raise ValueError(f"no precision {precision!r}")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise NeumetaError(
            f"{path} is damaged; say which precision the run had: --set {section}.precision=float32"
        ) from error
    return str(precision)


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {p: float(f"{s:.3g}") for p, s in seconds.items()}
