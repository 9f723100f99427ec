"""What became of many cases: refused in one line, all right, or one of four kinds of fault."""

import contextlib
import os
import platform
import resource
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from forked import run_forked

from neumeta_cli.errors import NeumetaError

TRACEBACK, WRONG, HALF, COSTLY = "tracebacks", "wrong values", "half files", "too slow or large"
KINDS = (TRACEBACK, WRONG, HALF, COSTLY)
HEADER = f"| what was tried | cases | refused in one line | {' | '.join(KINDS)} | counted at |"
SECONDS = 20.0  # of the processor that a case may take
GROWTH = 1 << 30  # bytes that it may add to the process
ROOM = 6 << 30  # bytes of addresses beyond those in use, so that no case takes the whole machine


class Wrong(Exception):  # noqa: N818
    """What a case gave is not what it should have given."""


class Half(Exception):  # noqa: N818
    """A file under its own name is not whole."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case: why it was refused, or a kind of fault and what was said."""

    refused: str | None = None
    fault: str | None = None
    said: str = ""


@dataclass
class Tally:
    """Cases of one sort.

    Attributes:
        what: was tried, for a table.
        cases: how many.
        refused: how many of them were refused in one line.
        faults: (kind, case, what was said).
        notes: what else a reader should know.

    """

    what: str
    cases: int = 0
    refused: int = 0
    faults: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, case: str, outcome: Outcome) -> None:
        self.cases += 1
        self.refused += outcome.refused is not None
        if outcome.fault is not None:
            self.faults.append((outcome.fault, case, outcome.said))

    def count(self, kind: str) -> int:
        return sum(fault == kind for fault, _, _ in self.faults)

    @contextlib.contextmanager
    def timed(self) -> Iterator["Tally"]:
        start = time.perf_counter()
        try:
            yield self
        finally:
            self.seconds += time.perf_counter() - start


def judged(work: Callable[[], None], most: float = SECONDS) -> Outcome:
    """Do something that may be refused in one line, and else should do no harm."""
    begun, peak = time.process_time(), _peak()
    outcome = Outcome()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work()
    except NeumetaError as error:
        outcome = Outcome(refused=str(error))
        if "\n" in str(error) or not str(error).strip():
            outcome = Outcome(fault=TRACEBACK, said=f"not one line: {str(error)[:200]!r}")
    except Wrong as error:
        outcome = Outcome(fault=WRONG, said=str(error))
    except Half as error:
        outcome = Outcome(fault=HALF, said=str(error))
    except Exception as error:  # what this is all about
        outcome = Outcome(fault=TRACEBACK, said=_traced(error))
    seconds, grown = time.process_time() - begun, _peak() - peak
    if outcome.fault is None and (seconds > most or grown > GROWTH):
        told = f"{seconds:.1f} s, {grown >> 20:,} MiB; {outcome.refused or 'not refused'}"
        return Outcome(fault=COSTLY, said=told)
    return outcome


def tried(work: Callable[[], None], seconds: float = SECONDS) -> Outcome:
    """The same in a fork of this process, which a crash, a hang or a bomb ends alone."""

    def limited() -> Outcome:
        most = ROOM + _addresses()
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        return judged(work, seconds)

    ending = run_forked(limited, seconds + 1)
    if isinstance(ending.value, Outcome):
        return ending.value
    kind = COSTLY if ending.died == "out of time" else TRACEBACK
    return Outcome(fault=kind, said=f"the process ended: {ending.died}")


def _traced(error: BaseException) -> str:
    """An error and where it was raised, in one line."""
    where, last = "", error.__traceback__
    while last is not None:
        code = last.tb_frame.f_code
        if "neumeta_cli" in code.co_filename:
            where = f" in {os.path.basename(code.co_filename)}:{last.tb_lineno}"
        last = last.tb_next
    return f"{type(error).__name__}: {str(error)[:200]!r}{where}"


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _addresses() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def commit() -> str:
    """Of this checkout, with its date, and a word where files have changed since."""
    found = []
    for line in ("describe --always --dirty --exclude=*", "log -1 --format=%cs"):
        ran = subprocess.run(
            ["git", *line.split()], cwd=Path(__file__).parent, capture_output=True, text=True
        )
        found.append(ran.stdout.strip())
    return f"{found[0]} ({found[1]})" if all(found) else "no commit"


def record(tallies: Sequence[Tally], counted_at: str) -> dict[str, Any]:
    """Counts, with the machine and the commit that they are of."""
    return {
        "commit": counted_at,
        "machine": platform.machine(),
        "processor": f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}",
        "rows": [vars(tally) for tally in tallies],
    }


def rewrite(page: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write the counts of these records, and no others, into a page's table.

    Cases of one sort that were tried in parts, at one commit, are one line.
    """
    beginning, _, rest = page.read_text("utf-8").partition(HEADER)
    if not rest:
        raise SystemExit(f"{page} has no table that begins with {HEADER}")
    counts: dict[tuple[str, str], list[int]] = {}
    for told in records:
        place = f"{told['processor']}, {told['commit']}"
        for row in told["rows"]:
            found = [sum(fault[0] == kind for fault in row["faults"]) for kind in KINDS]
            before = counts.get((row["what"], place), [0] * (2 + len(KINDS)))
            now = row["cases"], row["refused"], *found
            counts[row["what"], place] = [a + b for a, b in zip(before, now, strict=True)]
    lines = [HEADER, "|---|" + "---|" * (len(KINDS) + 3)]
    for (what, place), numbers in counts.items():
        lines.append(f"| {what} | {' | '.join(f'{n:,}' for n in numbers)} | {place} |")
    _, blank, after = rest.partition("\n\n")
    page.write_text(beginning + "\n".join(lines) + blank + after, "utf-8")
