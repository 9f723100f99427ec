"""What a training leaves in its folder as it goes, and how it is stopped."""

import json
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from neumeta_cli.checkpoint import write_atomically, write_text
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Reporter
from neumeta_cli.training.running import how_it_died, noted_as_running

STATE_FILE = "state.pt"
METRICS_FILE = "metrics.jsonl"
EVENTS = "brain.Event:2"  # version of TensorBoard's files, which their first event has


class Journal:
    """The state and the metrics of a training in its folder, and TensorBoard's if it is installed.

    Args:
        folder: nothing is written if None.
        writes: whether this process writes there; the others only read.

    """

    def __init__(self, folder: Path | None, writes: bool = True) -> None:
        self.folder, self.writes = folder, writes
        self._events: Path | None = None  # TensorBoard's

    def running(self) -> AbstractContextManager[None]:
        """Within it, the folder says that a run is under way."""
        return noted_as_running(self.folder if self.writes else None)

    def tell_of_death(self, reporter: Reporter) -> None:
        """Say it if the last run in this folder was ended by a signal, without a chance to save.

        Raises:
            NeumetaError: it is still under way.

        """
        died = how_it_died(self.folder) if self.writes else None
        if died is not None:
            reporter.tell(died)

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state whole or not at all."""
        if self.folder is not None and self.writes:
            write_atomically(self.folder / STATE_FILE, lambda path: torch.save(dict(state), path))

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The state that was saved last, or None.

        Raises:
            NeumetaError: the file is damaged.

        """
        if self.folder is None or not (self.folder / STATE_FILE).exists():
            return None
        path = self.folder / STATE_FILE
        try:
            state = torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # torch raises many kinds on damaged files
            raise NeumetaError(f"cannot resume from {path}: damaged; start a new run") from error
        return dict(state)

    def record(self, values: Mapping[str, float]) -> None:
        """Add a line to the metrics.

        Raises:
            NeumetaError: it cannot be written.

        """
        if self.folder is None or not self.writes:
            return
        path = self.folder / METRICS_FILE
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dict(values)) + "\n")
            self._show(self.folder, values)
        except OSError as error:
            raise NeumetaError(f"cannot write {path}: {error.strerror or error}") from error

    def forget_after(self, step: int) -> None:
        """Leave out metrics of steps that a resumed training takes again."""
        if self.folder is None or not self.writes or not (self.folder / METRICS_FILE).exists():
            return
        path = self.folder / METRICS_FILE
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            write_text(path, "".join(line + "\n" for line in kept))

    def _show(self, folder: Path, values: Mapping[str, float]) -> None:
        """Add an event for TensorBoard, if it is installed.

        It is written here and now: ``SummaryWriter`` has a thread do it, whose errors nobody gets.
        """
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            return
        now = time.time()
        events = []
        if self._events is None:
            self._events = folder / f"events.out.tfevents.{now:.6f}"
            events.append(Event(wall_time=now, file_version=EVENTS))
        shown = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        events.append(Event(wall_time=now, step=int(values["step"]), summary=Summary(value=shown)))
        with self._events.open("ab") as file:
            for event in events:
                RecordWriter(file).write(event.SerializeToString())


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # cut in the middle
        return float("inf")


class StopSignals:
    """Ctrl-C and SIGTERM ask for a stop. Main thread only.

    Args:
        patient: the second one waits too, as launchers repeat the signals that they get.

    """

    def __init__(self, patient: bool = False) -> None:
        self.requested, self.patient = False, patient
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested and not self.patient:
            raise KeyboardInterrupt
        self.requested = True
