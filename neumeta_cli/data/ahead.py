"""Batches that workers read from files while others are computed on."""

import os
import signal
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from neumeta_cli.data.samples import Draw, Samples
from neumeta_cli.errors import NeumetaError
from neumeta_cli.hardware import usable_cores

MOST_WORKERS = 8  # that are begun unasked
BATCHES_AHEAD = 2  # of each worker


class ReadAhead:
    """What was announced of a split, read by torch's ``DataLoader`` in the order of the asking.

    Whoever is to read batch after batch says so in ``expect`` and then asks for one after the
    other; ``take`` gives what is next, or nothing if something else is asked for, which the caller
    then reads itself. Workers stay for the next announcement.
    """

    def __init__(self) -> None:
        self._plan = _Plan()
        self._expected: deque[Draw] = deque()
        self._loader: DataLoader[Any] | None = None
        self._found: Iterator[tuple[Tensor, Tensor] | str] = iter(())
        self._device = torch.device("cpu")
        self._made: tuple[object, ...] = ()  # for what

    def __reduce__(self) -> tuple[type["ReadAhead"], tuple[()]]:
        """A copy, in whatever process, expects nothing."""
        return ReadAhead, ()

    def expect(
        self, samples: Samples, draws: Iterable[Draw], workers: int | None, device: torch.device
    ) -> None:
        """Begin to read what will be asked for, which takes the place of what was announced.

        Args:
            samples: reads an image.
            draws: of the batches, in order.
            workers: how many processes read; as many as suit the machine if None.
            device: where batches are to be.

        """
        self._expected = deque(draws)
        self._device = device
        workers = chosen_workers() if workers is None else workers
        if workers == 0 or len(self._expected) < 2:  # nothing to do meanwhile
            self._expected.clear()
            return
        self._plan.batches = [draw.pairs() for draw in self._expected]
        made = (samples.data, workers, device)
        if self._loader is None or self._made != made:
            self._loader = DataLoader(
                samples,  # type: ignore[arg-type]
                batch_sampler=self._plan,
                num_workers=workers,
                collate_fn=_as_it_is,
                pin_memory=device.type == "cuda",
                worker_init_fn=partial(_begin_worker, list(warnings.filters)),
                prefetch_factor=BATCHES_AHEAD,
                persistent_workers=True,
                generator=torch.Generator(),  # or it draws from the one that all code shares
            )
            self._made = made
        with warnings.catch_warnings():  # of more workers than cores, which the user asked for
            warnings.simplefilter("ignore")
            self._found = iter(self._loader)

    def take(self, draw: Draw) -> tuple[Tensor, Tensor] | None:
        """Pixels and labels of what was announced next, on the device, or None if it is another.

        Raises:
            NeumetaError: a file cannot be read, or a worker has ended.

        """
        if not self._expected or not self._expected[0].same(draw):
            return None
        self._expected.popleft()
        try:
            found = next(self._found)
        except RuntimeError as error:  # torch's, of a worker that has ended
            self.stop()
            reason = str(error).splitlines()[0]
            raise NeumetaError(
                f"a process that reads images has ended ({reason}); if memory or shared memory "
                "is short, set data.workers lower or to 0"
            ) from error
        if isinstance(found, str):
            self.stop()
            raise NeumetaError(found)
        pixels, labels = (t.to(self._device, non_blocking=True) for t in found)
        return pixels, labels

    def stop(self) -> None:
        """End the workers."""
        self._expected.clear()
        self._found, self._loader = iter(()), None


class _Plan:
    """The batches that a loader is to read; it asks anew at each announcement."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int | None]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int | None]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def chosen_workers() -> int:
    """One for each core that is this process's, up to eight."""
    return max(1, min(MOST_WORKERS, usable_cores()))


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin_worker(filters: list[Any], number: int) -> None:
    """Leave Ctrl-C and the like to the process that asked, which may want batches until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    warnings.filters[:] = filters  # type: ignore[index]
