"""A note in a run's folder while it is under way, by which the next one knows how it ended."""

import faulthandler
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from neumeta_cli.errors import NeumetaError

RUNNING_FILE = "running.log"
DIED_FILE = "died.log"
FATAL = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
CALL = re.compile(r'^  File "(.+)", line (\d+) in (\w+)$', re.MULTILINE)


@contextmanager
def noted_as_running(folder: Path | None) -> Iterator[None]:
    """Keep a note in the folder until the body ends, in whatever way Python sees it end.

    A signal that ends the process at once (a fault in a library, a kill) leaves the note behind.
    What was running when a fault came is written into it, unless ``faulthandler`` writes elsewhere
    already.

    Args:
        folder: where the note lies; none is left if None.

    Raises:
        NeumetaError: another process that is alive has a note there, or it cannot be written.

    """
    if folder is None:
        yield
        return
    path = folder / RUNNING_FILE
    note = _opened(path)
    ours = not faulthandler.is_enabled()
    if ours:
        faulthandler.enable(note, all_threads=False)
    try:
        yield
    finally:
        if ours:
            faulthandler.disable()
        path.unlink(missing_ok=True)
        note.close()


def refuse_if_running(folder: Path) -> None:
    """Raise NeumetaError if a process that is alive has its note in the folder."""
    if (folder / RUNNING_FILE).exists():
        _opened(folder / RUNNING_FILE).close()


def how_it_died(folder: Path | None) -> str | None:
    """One line on how the last run in this folder died, None if Python saw it end.

    What a fault left is kept as ``died.log``.

    Raises:
        NeumetaError: it has not died: it is still under way.

    """
    path = None if folder is None else folder / RUNNING_FILE
    if path is None or not path.exists():
        return None
    with _opened(path):
        told = path.read_text(encoding="utf-8", errors="replace")
    fatal = FATAL.search(told)
    if fatal is None:
        path.unlink()
        return "the last run was killed from outside (kill -9, out of memory, or the machine)"
    kept = path.replace(path.with_name(DIED_FILE))
    call = CALL.search(told)
    within = "" if call is None else f" in {call[3]} ({Path(call[1]).name}, line {call[2]})"
    return f"the last run died by a fault: {fatal[1]}{within}; all of it: {kept}"


def _opened(path: Path) -> IO[str]:
    """The note, locked until it is closed, which a process that dies does too."""
    try:
        note = path.open("a", encoding="utf-8")
    except OSError as error:
        raise NeumetaError(f"cannot write {path}: {error.strerror or error}") from error
    if not _lock(note):
        note.close()
        raise NeumetaError(
            f"another process is at work in {path.parent}; wait for it, or choose another folder"
        )
    return note


def _lock(note: IO[Any]) -> bool:
    """Whether nobody else holds the file; True where files cannot be locked."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return True
    try:
        fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
