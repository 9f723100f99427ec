"""Programs in processes of their own that need not import torch, timm and the rest again.

A nursery is a process that has imported what programs need and forks one for each that is asked
for; it is begun with the first of them. What a program prints, how it ends and which signals it
takes are as if Python had been started for it, but for ``leave_out_what_takes_long``.
"""

import atexit
import functools
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

IMPORTED = ("neumeta_cli.cli.app", "neumeta_cli.pipeline", "timm", "torchvision", "accelerate")
DRAWING_AND_TIMING = (
    "neumeta_cli.compare.report",
    "neumeta_cli.evaluate.plots",
    "neumeta_cli.evaluate.latency",
    "neumeta_cli.evaluate.measure",
    "neumeta_cli.compare.compare",
)
QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
LONGEST = 1 << 20  # bytes of a request
_forked: list[socket.socket] = []  # the connection to a nursery that was forked


class Program:
    """A Python program that runs; the part of ``subprocess.Popen`` that tests use.

    Args:
        arguments: of Python: ``-m``, a module and its arguments, ``-c``, code and its arguments, or
            a script's path and its arguments.
        cwd: folder to run in, this process's if None.
        environment: variables beside those of this process.
        merged: whether what it says on stderr comes in stdout.

    """

    def __init__(
        self,
        *arguments: object,
        cwd: Path | None = None,
        environment: Mapping[str, object] | None = None,
        merged: bool = False,
    ) -> None:
        told = {
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd or Path.cwd()),
            "environment": os.environ | {n: str(v) for n, v in (environment or {}).items()} | QUIET,
        }
        (out, its_out), (errors, its_errors), (status, its_status) = (os.pipe() for _ in range(3))
        given = [its_out, its_out if merged else its_errors, its_status]
        socket.send_fds(nursery(), [json.dumps(told).encode()], given)
        for descriptor in (its_out, its_errors, its_status):
            os.close(descriptor)
        self.stdout: IO[str] = os.fdopen(out)
        self.stderr: IO[str] = os.fdopen(errors)
        self._status: IO[str] = os.fdopen(status)
        self.pid = int(self._status.readline())
        self.returncode: int | None = None
        self._waiting = threading.Thread(target=self._wait, daemon=True)
        self._waiting.start()

    def _wait(self) -> None:
        self.returncode = int(self._status.readline())
        self._status.close()

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        """Both streams to their ends, once it is over."""
        told: list[str] = []
        reader = threading.Thread(target=lambda: told.append(self.stderr.read()))
        reader.start()
        out = self.stdout.read()
        reader.join()
        self._waiting.join()
        self.stdout.close()
        self.stderr.close()
        return out, told[0]


def leave_out_what_takes_long() -> None:
    """What every fit and comparison does and hardly a test looks at.

    Pages have no charts, pictures few dots, and what is told as latency is that of two images,
    timed for a moment.
    """
    report, plots, latency, measure, compare = map(importlib.import_module, DRAWING_AND_TIMING)
    time = latency.measure_latency

    def of_a_moment(model: Any, size: Any, batch: int, seconds: float = 0.0) -> float:
        return time(model, size, min(batch, 2), 0.01)

    report._charts = lambda *_: iter(())
    plots.DPI = 50
    measure.measure_latency = compare.measure_latency = of_a_moment


@functools.cache
def nursery() -> socket.socket:
    """The connection to this process's nursery, which ends with it."""
    if _forked:
        return _forked[0]
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, str(Path(__file__)), str(its.fileno())]
    begun = subprocess.Popen(command, pass_fds=[its.fileno()], env=os.environ | QUIET)
    its.close()
    atexit.register(lambda: (ours.close(), begun.wait()))
    return ours


def fork_nursery() -> None:
    """Let a fork of this process be its nursery, before it has threads or anything to tidy up.

    That takes no time where it has imported what programs need.
    """
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        become(serve(its))
        sys.exit()
    its.close()
    _forked.append(ours)


def serve(requests: socket.socket) -> dict[str, Any]:
    """Fork for each request; returns in the forked processes alone, with what is asked of them."""
    while True:
        content, descriptors, _, _ = socket.recv_fds(requests, LONGEST, 3)
        if not content:
            os._exit(0)
        if os.fork():  # a process that waits for the program, which this one need not do
            for descriptor in descriptors:
                os.close(descriptor)
            continue
        requests.close()
        out, errors, status = descriptors
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if pid := os.fork():
            os.close(out)
            os.close(errors)
            os.write(status, f"{pid}\n".encode())
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            os.write(status, f"{code}\n".encode())
            os._exit(0)
        os.close(status)
        os.dup2(out, 1)
        os.dup2(errors, 2)
        for descriptor in {out, errors}:
            os.close(descriptor)
        return json.loads(content)


def become(asked: Mapping[str, Any]) -> None:
    """Run a program as Python would."""
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    # Tests that were begun in the background of a script ignore Ctrl-C, and so would this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # One that is replaced would close what the other writes to, in a program of a program.
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stdin = open(os.devnull)  # noqa: SIM115
    first, *rest = asked["arguments"]
    kind, what = (first, rest.pop(0)) if first in ("-m", "-c") else ("", first)
    folder = str(Path(what).parent) if not kind else ""
    sys.path[0] = folder
    sys.argv = [kind or what, *rest]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(what, run_name="__main__")


if __name__ == "__main__":
    sys.path.append(sys.path[0])  # with networks that tests fit
    sys.path[0] = str(Path(__file__).parent.parent)
    for module in IMPORTED:
        importlib.import_module(module)
    leave_out_what_takes_long()
    assert threading.active_count() == 1
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how those that wait have ended
    become(serve(socket.socket(fileno=int(sys.argv[1]))))
