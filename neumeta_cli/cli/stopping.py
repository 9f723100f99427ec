"""What a command that takes long leaves behind when it is stopped, and what it then says."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from neumeta_cli.cli.console import TerminalReporter, note
from neumeta_cli.errors import NeumetaError, StoppedRunError
from neumeta_cli.hardware import launched_processes
from neumeta_cli.runs import COMPARE_FILE
from neumeta_cli.training import RUNNING_FILE, STATE_FILE, refuse_if_running

SAME_COMMAND = "the same command with --resume"


@contextmanager
def telling_how_to_go_on(reporter: TerminalReporter, folder: Path, again: str) -> Iterator[None]:
    """If what is done within stops, by Ctrl-C or by an error, say how to resume.

    Args:
        reporter: its progress bar is ended first.
        folder: where the state is kept.
        again: the command that resumes.

    Raises:
        KeyboardInterrupt: it was stopped.
        NeumetaError: that of the body, with a hint if a state was saved.

    """
    before = _saved_at(folder)
    try:
        yield
    except (StoppedRunError, KeyboardInterrupt) as stop:
        reporter.finish()
        hint = f"resume with: {again}" if _saved_at(folder) else "nothing was saved yet"
        note(f"{stop or 'stopped'}; {hint}")
        raise KeyboardInterrupt from stop
    except NeumetaError as error:
        reporter.finish()
        if _saved_at(folder) in (0.0, before):
            raise
        raise NeumetaError(f"{error}; once that is fixed, resume with: {again}") from error


def refuse_others_work(folder: Path, files: Sequence[str], overwrite: bool) -> None:
    """Refuse to begin a run in a folder that holds what another has done.

    Args:
        folder: of the run; need not be there.
        files: what is there once something has been done that a new run would write over.
        overwrite: whether the user said so.

    Raises:
        NeumetaError: one of them is there, perhaps of a run that is under way.

    """
    found = next((name for name in files if (folder / name).exists()), None)
    if found is None or overwrite:
        return
    refuse_if_running(folder)  # which neither of them would help
    what = {
        STATE_FILE: "an unfinished run, which --resume continues",
        COMPARE_FILE: "a comparison",
    }.get(found, "a finished run")
    raise NeumetaError(
        f"{folder} holds {what}; name another folder, or say --overwrite to replace it"
    )


def require_begun(folder: Path) -> None:
    """Refuse to resume where nothing has begun.

    Raises:
        NeumetaError: neither a state nor a run that died is there.

    """
    if not any((folder / name).exists() for name in (STATE_FILE, RUNNING_FILE)):
        raise NeumetaError(f"nothing to resume: {folder} holds no saved state; leave out --resume")


def working_folder(output: Path, resume: bool, overwrite: bool) -> Path:
    """The folder that keeps the state until ``output`` is written, emptied unless resuming.

    Raises:
        NeumetaError: there is nothing to resume, something that only ``overwrite`` or ``resume``
            may go on with, or another process is at work in it.

    """
    folder = output.with_name(output.name + ".training")
    if resume:
        require_begun(folder)
    if launched_processes()[1] == 0:
        refuse_if_running(folder)
        refuse_others_work(folder, [STATE_FILE], overwrite or resume)
    if not resume and launched_processes()[1] == 0:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _saved_at(folder: Path) -> float:
    """When the state was saved, 0 if never."""
    state = folder / STATE_FILE
    return state.stat().st_mtime if state.exists() else 0.0
