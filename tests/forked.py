"""Work that may crash, hang or damage memory, each piece in a process of its own."""

import math
import os
import pickle
import resource
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PATIENCE = 10  # how much slower than an idle machine one may be that is busy with other things


@dataclass(frozen=True)
class Ending:
    """How a forked process ended: with a value, by a signal, by an exception or out of time."""

    value: Any = None
    died: str = ""


class Forked:
    """A function under way in a fork of this process, which must not have used threads of torch.

    Args:
        work: what it returns comes back pickled.
        limit: seconds of the processor, after which it is killed; and where it waits for something
            instead, after ``PATIENCE`` times as many seconds.

    """

    def __init__(self, work: Callable[[], Any], limit: float) -> None:
        self._reading, writing = os.pipe()
        self._until = time.monotonic() + PATIENCE * limit
        self._chunks: list[bytes] = []
        self._killed = False
        self.pid = os.fork()
        if self.pid:
            os.close(writing)
            return
        code = 1
        try:
            os.close(self._reading)
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit) + 1))
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 2)  # what the C library says of damaged memory
            told: tuple[str, Any]
            try:
                told = ("value", work())
            except BaseException as error:
                told = ("error", f"{type(error).__name__}: {error}")
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(told, pipe)
            code = 0
        finally:
            os._exit(code)

    def wait(self) -> Ending:
        """Until it ends or its time is over."""
        while (left := self._until - time.monotonic()) > 0:
            if not select.select([self._reading], [], [], left)[0]:
                continue
            chunk = os.read(self._reading, 1 << 16)
            if not chunk:
                break
            self._chunks.append(chunk)
        else:
            os.kill(self.pid, signal.SIGKILL)
            self._killed = True
        os.close(self._reading)
        status = os.waitpid(self.pid, 0)[1]
        spent = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
        if self._killed or spent:
            return Ending(died="out of time")
        if os.WIFSIGNALED(status):
            return Ending(died=signal.Signals(os.WTERMSIG(status)).name)
        try:
            kind, told = pickle.loads(b"".join(self._chunks))
        except (EOFError, pickle.UnpicklingError):
            return Ending(died="without a word")
        return Ending(value=told) if kind == "value" else Ending(died=str(told))


def run_forked(work: Callable[[], Any], limit: float) -> Ending:
    """Run ``work`` in a fork and wait for it."""
    return Forked(work, limit).wait()
