"""Files appear whole or not at all."""

import contextlib
import glob
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from neumeta_cli.errors import NeumetaError

# What libraries say of writes that fail.
CUT_SHORT = ("unexpected pos", "iostream error")  # without saying so
WRITING = ("write", "file", "i/o error", *CUT_SHORT)

ABANDONED = 3600.0  # seconds since a partial file has grown, after which nobody writes it any more
NAMED = 32  # letters of the name that a partial file repeats


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Call ``write`` on a new file beside ``path``, then rename it to ``path``.

    A crash, a full disk or an interrupt leaves whatever was at ``path`` before. What ``write``
    raises of its own is passed on. A process that was killed leaves its partial file, which a later
    call for the same path takes away.

    Raises:
        NeumetaError: the folder cannot be made or written, or the disk is full.

    """
    path = Path(path)
    if path.is_dir():
        raise NeumetaError(f"cannot write {path}: it is a folder; give a file name")
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix, suffix = f".{path.stem[:NAMED]}.", f".partial{path.suffix}"
        _remove_abandoned(path.parent, prefix, suffix)
        # safetensors and torch look at the ending, so the partial file keeps it.
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=path.parent)
        os.close(handle)
        partial = Path(name)
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        partial.chmod(mode)
        partial.replace(path)
    except OSError as error:
        raise NeumetaError(f"cannot write {path}: {error.strerror or error}") from error
    except (RuntimeError, SafetensorError) as error:  # torch and safetensors, of failed writes
        reason = str(error).splitlines()[0] if str(error) else ""
        if not any(word in reason.lower() for word in WRITING):
            raise
        if any(words in reason for words in CUT_SHORT):
            reason = "not all of it could be written; is the disk full?"
        raise NeumetaError(f"cannot write {path}: {reason}") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` as UTF-8, atomically."""
    return write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _remove_abandoned(folder: Path, prefix: str, suffix: str) -> None:
    for partial in folder.glob(f"{glob.escape(prefix)}*{glob.escape(suffix)}"):
        with contextlib.suppress(OSError):  # another process may be quicker
            if time.time() - partial.stat().st_mtime > ABANDONED:
                partial.unlink()


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
