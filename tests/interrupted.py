"""Commands that are killed, that meet a full disk, or that run twice in one folder."""

import json
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
import yaml
from PIL import Image
from programs import Program
from tally import HALF, TRACEBACK, WRONG, Half, Outcome

from neumeta_cli.checkpoint import read_weights
from neumeta_cli.export import describe, load

RECIPE = ("-r", "digits_lenet", "--device", "cpu", "--set", "noise.samples=2")
FIT = (
    *("--set", "fit.epochs=3", "--set", "fit.save_steps=7", "--set", "fit.precision=float32"),
    *("--set", "eval.gammas=[0.5]", "--set", "permute.solver=identity"),
)
ENDINGS = (".pt", ".safetensors", ".onnx", ".pt2")
MANIFOLD = "given.safetensors"  # in the folder of a command that exports
LIMITED = """
import resource, sys
from neumeta_cli.cli import main
most = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
main()
"""
Made = Mapping[str, Any]  # what a command gave, as plain values that are equal or not


@dataclass(frozen=True)
class Command:
    """A command that is disturbed.

    Attributes:
        name: in tables.
        line: of its arguments.
        resumed: the same where an earlier one was stopped in this folder.
        made: what it gave.

    """

    name: str
    line: tuple[str, ...]
    resumed: Callable[[Path], tuple[str, ...]]
    made: Callable[[Path], Made]

    def start(self, folder: Path, *, again: bool = False) -> Program:
        line = self.resumed(folder) if again else self.line
        return Program("-m", "neumeta_cli", *line, cwd=folder)

    def start_limited(self, folder: Path, most: int) -> Program:
        """Files of it may grow to so many bytes and no more, as on a full disk."""
        return Program("-c", LIMITED, str(most), *self.line, cwd=folder)


def _tensors(path: Path, prefix: str = "") -> Made:
    found = read_weights(path).tensors.items()
    return {name: t.cpu().numpy().tobytes() for name, t in found if name.startswith(prefix)}


def _resume_if_begun(line: tuple[str, ...], state: str) -> Callable[[Path], tuple[str, ...]]:
    def resumed(folder: Path) -> tuple[str, ...]:
        begun = any((folder / state / name).exists() for name in ("state.pt", "running.log"))
        return (*line, "--resume") if begun else line

    return resumed


def _accuracies(folder: Path) -> Made:
    """What methods reached; not how long they took."""
    told = json.loads((folder / "cmp" / "compare.json").read_text("utf-8"))
    return {m["method"]: [row["metrics"] for row in m["rows"]] for m in told["methods"]}


def _outputs(path: Path) -> Made:
    """Of a network's file, whichever it is."""
    from neumeta_cli.export.programs import PROGRAMS

    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    if path.suffix in PROGRAMS:
        return {path.name: PROGRAMS[path.suffix].open(path)(x)[0].numpy().tobytes()}
    with torch.no_grad():
        return {path.name: load(path)(x).numpy().tobytes()}


def _family(folder: Path) -> Made:
    paths = sorted((folder / "family").glob("width-*"))
    return {name: made for path in paths for name, made in _outputs(path).items()}


FIT_LINE = ("fit", *RECIPE, *FIT, "--run", "run", "--overwrite")
TRAIN_LINE = (
    *("train", "-r", "digits_lenet", "--device", "cpu", "--epochs", "6", "-o", "net.safetensors"),
    *("--set", "train.save_steps=7", "--set", "train.precision=float32", "--overwrite"),
)
COMPARE_LINE = (
    *("compare", *RECIPE, *FIT, "--methods", "neumeta,individual,l1", "--run", "cmp"),
    *("--set", "compare.images=64"),
)
COMMANDS = {
    "fit": Command(
        "fit",
        FIT_LINE,
        _resume_if_begun(FIT_LINE, "run"),
        lambda folder: _tensors(folder / "run" / "manifold.safetensors", "inr."),
    ),
    "train": Command(
        "train",
        TRAIN_LINE,
        _resume_if_begun(TRAIN_LINE, "net.safetensors.training"),
        lambda folder: _tensors(folder / "net.safetensors"),
    ),
    "compare": Command("compare", COMPARE_LINE, lambda _: COMPARE_LINE, _accuracies),
}


def export(ending: str) -> Command:
    """Of one network to one file; with no ending, of a family."""
    if ending:
        target = f"half{ending}"
        line = ("export", MANIFOLD, "-o", target, "--width", "0.5", "--overwrite")
        return Command(f"export {ending}", line, lambda _: line, lambda f: _outputs(f / target))
    line = ("export", MANIFOLD, "-o", "family", "--widths", "1,0.5,0.25", "--overwrite")
    return Command("export, a family", line, lambda _: line, _family)


EXPORTS = [export(ending) for ending in (*ENDINGS, "")]


# What is left


def check_whole(folder: Path) -> None:
    """Open every file of a folder that has its own name and is no partial one.

    Raises:
        Half: one of them is not whole.

    """
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file() or path.name.startswith(GROWING):
            continue
        reader = READERS.get(path.suffix)
        if reader is None:
            raise Half(f"{path.name}: nobody knows what a whole one is")
        try:
            reader(path)
        except Exception as error:
            raise Half(f"{path.relative_to(folder)}: {error}") from error


def _ends_with(end: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        if not path.read_text("utf-8").rstrip().endswith(end):
            raise ValueError(f"does not end with {end}")

    return read


def _read_lines(path: Path) -> None:
    """Of JSON, of which the last may be cut: it is written as the run goes on."""
    for line in path.read_text("utf-8").split("\n")[:-1]:
        json.loads(line)


def _verify_picture(path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()


GROWING = ("running.log", "died.log", "events.out.")  # notes that are written as a run goes on
READERS: dict[str, Callable[[Path], object]] = {
    ".safetensors": read_weights,
    ".pt": lambda path: torch.load(path, weights_only=True),
    ".onnx": describe,
    ".pt2": describe,
    ".json": lambda path: json.loads(path.read_text("utf-8")),
    ".jsonl": _read_lines,
    ".yaml": lambda path: yaml.safe_load(path.read_text("utf-8"))["name"],
    ".html": _ends_with("</html>"),
    ".svg": ElementTree.parse,
    ".png": _verify_picture,
}


def leftovers(folder: Path) -> list[Path]:
    """Partial files, which a process that ended by itself leaves none of."""
    return [p for p in folder.rglob(".*") if "partial" in p.name or p.name.endswith(".earlier")]


# Disturbances


@dataclass(frozen=True)
class Undisturbed:
    """What a command gives where nothing happens to it, and how long it takes."""

    command: Command
    made: Made
    seconds: float
    largest: int  # bytes of the largest file that it left


def undisturbed(command: Command, manifold: Path, folder: Path) -> Undisturbed:
    start = time.monotonic()
    program = _prepared(command, manifold, folder).start(folder)
    _, errors = program.communicate()
    seconds = time.monotonic() - start
    if program.returncode:
        raise RuntimeError(f"{command.name} fails undisturbed ({program.returncode}): {errors}")
    check_whole(folder)
    largest = max(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return Undisturbed(command, command.made(folder), seconds, largest)


def _prepared(command: Command, manifold: Path, folder: Path) -> Command:
    folder.mkdir(parents=True)
    if command.name.startswith("export"):
        shutil.copy(manifold, folder / MANIFOLD)
    return command


def killed(manifold: Path, rng: random.Random, whole: Undisturbed, folder: Path) -> Outcome:
    """Kill a command at a random moment, look at what is left, and give it again."""
    command = _prepared(whole.command, manifold, folder)
    for _ in range(5):  # it may be over before the moment comes
        program = command.start(folder)
        time.sleep(rng.uniform(0, whole.seconds))
        program.kill()
        _, errors = program.communicate()
        if program.returncode == -9:
            break
        shutil.rmtree(folder)
        _prepared(command, manifold, folder)
    else:
        return Outcome(fault=TRACEBACK, said="it was over five times before it was killed")
    return _judge(whole, folder, [(program.returncode, errors)], may_leave=True)


def out_of_disk(
    manifold: Path, shares: Iterator[float], whole: Undisturbed, folder: Path
) -> Outcome:
    """Let no file grow beyond the next share of the largest one; then give the command again."""
    command = _prepared(whole.command, manifold, folder)
    program = command.start_limited(folder, int(next(shares) * whole.largest))
    _, errors = program.communicate()
    return _judge(whole, folder, [(program.returncode, errors)], may_leave=False)


def twice(manifold: Path, rng: random.Random, whole: Undisturbed, folder: Path) -> Outcome:
    """Give a command twice in one folder, the second a little later."""
    command = _prepared(whole.command, manifold, folder)
    one = command.start(folder)
    time.sleep(rng.uniform(0, 0.7) * whole.seconds)
    other = command.start(folder)
    ends = []
    for program in (one, other):
        _, errors = program.communicate()
        ends.append((program.returncode, errors))
    if all(code for code, _ in ends):
        said = "; ".join(errors.strip().splitlines()[-1] for _, errors in ends)
        return Outcome(fault=WRONG, said=f"neither of two commands came to its end: {said}")
    return _judge(whole, folder, ends, may_leave=False)


def _judge(
    whole: Undisturbed, folder: Path, ends: Iterable[tuple[int | None, str]], may_leave: bool
) -> Outcome:
    """What was said, what is left, and what the same command makes of it."""
    refused = None
    for code, errors in ends:
        if fault := fault_in(code, errors):
            return Outcome(fault=TRACEBACK, said=fault)
        refused = errors.strip().splitlines()[-1] if code == 1 else refused
    try:
        check_whole(folder)
        if not may_leave and (left := leftovers(folder)):
            raise Half(f"left behind: {', '.join(p.name for p in left)}")
    except Half as error:
        return Outcome(fault=HALF, said=str(error))
    program = whole.command.start(folder, again=True)
    _, errors = program.communicate()
    if program.returncode:
        said = f"given again: {errors.strip().splitlines()[-1]}"
        return Outcome(
            fault=TRACEBACK if fault_in(program.returncode, errors) else WRONG, said=said
        )
    check_whole(folder)
    if whole.command.made(folder) != whole.made:
        return Outcome(fault=WRONG, said="given again, it makes something else")
    return Outcome(refused=refused)


def fault_in(code: int | None, errors: str) -> str | None:
    """What of a process's end is no good: a traceback, an internal error, an error of no words."""
    bad = [line for line in errors.splitlines() if "Traceback" in line or "internal:" in line]
    if bad:
        return bad[0] if "internal" in bad[0] else errors.strip().splitlines()[-1]
    if code in (0, -9):
        return None
    if code == 1 and errors.strip().splitlines()[-1:][0].startswith("error: "):
        return None
    return f"exit code {code}: {errors.strip()[-200:]!r}"
