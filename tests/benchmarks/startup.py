"""Processor time that commands take to open, as a ratio to what they are built on.

Commands that need no torch are compared with importing typer and rich, the others with importing
torch. Each is a process of its own and runs to its end: those with a file of their own read it and
print what it is, those with a file that is not there say so. What is compared with what runs in the
same round, one after another, and the least processor time of all rounds counts on both sides:
other work on the machine makes it longer and never shorter. Bytecode is kept, as that of an
installed package is.

    python tests/benchmarks/startup.py --json startup.json
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from neumeta_cli.cli.app import COMMANDS

LIGHT, HEAVY = ("-c", "import typer, rich"), ("-c", "import torch")
MOST = {LIGHT: 1.5, HEAVY: 1.15}  # what the ratios are to stay below
PROGRAM = ("-c", "import sys; sys.argv[0] = 'neumeta'; from neumeta_cli.cli import main; main()")
COMPLETION = {"_NEUMETA_COMPLETE": "complete_bash", "COMP_WORDS": "neumeta ex", "COMP_CWORD": "1"}
REPOSITORY = Path(__file__).parents[2]
DIGITS = str(REPOSITORY / "examples/digits_lenet.safetensors")


@dataclass(frozen=True)
class Job:
    """A command line and what it is compared with."""

    arguments: tuple[str, ...]
    base: tuple[str, str]
    completes: bool = False

    @property
    def name(self) -> str:
        words = " ".join(self.arguments).replace(DIGITS, Path(DIGITS).name)
        return "completion of 'neumeta ex'" if self.completes else words

    def seconds(self) -> float:
        return processor_seconds((*PROGRAM, *self.arguments), COMPLETION if self.completes else {})


JOBS = [
    Job(("--version",), LIGHT),
    Job(("--help",), LIGHT),
    *(Job((command, "--help"), LIGHT) for command in COMMANDS),
    Job(("recipes", "--help"), LIGHT),
    Job(("recipes", "list"), LIGHT),
    Job((), LIGHT, completes=True),
    Job(("info", "none.pth"), LIGHT),
    Job(("permute", "none.pth"), LIGHT),
    Job(("export", "none.safetensors", "--width", "0.5", "-o", "half.pt"), LIGHT),
    Job(("eval", "none.pth"), LIGHT),
    Job(("fit", "--recipe", "digits_lenet", "--checkpoint", "none.pth"), LIGHT),
    Job(("info", DIGITS), HEAVY),
    Job(("trace", DIGITS), HEAVY),
    Job(("trace", "lenet"), HEAVY),
    Job(("recipes", "show", "digits_lenet"), HEAVY),
    Job(("recipes", "schema"), HEAVY),
]


def processor_seconds(arguments: tuple[str, ...], more: dict[str, str]) -> float:
    """Of a Python process, whatever becomes of it; its output goes nowhere."""
    quiet = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | more
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    process = os.posix_spawn(
        sys.executable, [sys.executable, *arguments], environment, file_actions=quiet
    )
    _, _, used = os.wait4(process, 0)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=9, help="of each command")
    parser.add_argument("--only", choices=("light", "heavy"), help="without torch, or with it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    kinds = {"light": [LIGHT], "heavy": [HEAVY], None: [LIGHT, HEAVY]}[options.only]
    jobs = [job for job in JOBS if job.base in kinds]
    bases: dict[tuple[str, str], list[float]] = {base: [] for base in kinds}
    taken: dict[Job, list[float]] = {job: [] for job in jobs}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for run in range(options.runs + 1):
            told = [(bases[base], processor_seconds(base, {})) for base in kinds]
            told += [(taken[job], job.seconds()) for job in jobs]
            if run:  # the first one fills the caches
                for times, seconds in told:
                    times.append(seconds)
        os.chdir(REPOSITORY)
    table = Table("command", "compared with", "seconds", "its seconds", "ratio", "at most")
    rows = []
    for job in jobs:
        own, base = (min(times) for times in (taken[job], bases[job.base]))
        row = {
            "command": job.name,
            "base": job.base[1],
            "seconds": own,
            "base_seconds": base,
            "ratio": own / base,
            "most": MOST[job.base],
        }
        rows.append(row)
        table.add_row(
            job.name,
            job.base[1],
            f"{own:.3f}",
            f"{base:.3f}",
            f"{row['ratio']:.2f}",
            f"{row['most']:g}",
        )
    Console(width=130).print(table)
    load = os.getloadavg()[0]
    print(f"least of {options.runs} runs each; load of the machine {load:.1f}")
    if options.json:
        result = {"rows": rows, "runs": options.runs, "load": load}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
