"""What became of many cases: refused in one line, all right, or one of four kinds of fault."""

import contextlib
import os
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from forked import run_forked

from neumeta_cli.errors import NeumetaError

TRACEBACK, WRONG, HALF, COSTLY = "tracebacks", "wrong values", "half files", "too slow or large"
KINDS = (TRACEBACK, WRONG, HALF, COSTLY)
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
