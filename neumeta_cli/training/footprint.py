"""How much memory a step will take, found on a few images before it is taken on a batch."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from neumeta_cli.errors import NeumetaError
from neumeta_cli.hardware import available_bytes, resident_bytes
from neumeta_cli.reporting import counted
from neumeta_cli.trace.dispatch import DispatchMode
from neumeta_cli.training.precision import in_words as in_time

FEW = 8  # images, on which and on half of which it is found
BESIDE = 1.1  # of what tensors take: the room of kernels, and holes between blocks
SAFE = 0.95  # of the memory that is left may be taken
GIB = 1 << 30

Footprint = Callable[[str, int], int]  # precision, on how many images; bytes


class Held(DispatchMode):
    """Counts the memory of the tensors that are made within it and are still there.

    Attributes:
        bytes: now.
        most: at any time.

    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.most = 0
        self._blocks: dict[int, Any] = {}  # also those from before, which count nothing

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self._add((args, kwargs), made=False)
        made = func(*args, **(kwargs or {}))
        self._add(made, made=True)
        self.most = max(self.most, self.bytes)
        return made

    def _add(self, tensors: Any, made: bool) -> None:
        for tensor in tree_leaves(tensors):
            if not isinstance(tensor, Tensor) or tensor.is_meta:
                continue
            storage = tensor.untyped_storage()
            key = storage.data_ptr()
            if key and key not in self._blocks:
                size = storage.nbytes() if made else 0
                self.bytes += size
                self._blocks[key] = weakref.ref(storage, partial(self._gone, key, size))

    def _gone(self, key: int, size: int, _: Any) -> None:
        self.bytes -= size
        self._blocks.pop(key, None)


@dataclass(frozen=True)
class Line:
    """Bytes that a step takes at its peak: some in any case, some for each image."""

    constant: float
    each: float

    def at(self, images: int) -> int:
        return round(BESIDE * (self.constant + self.each * images))


def step_bytes(footprint: Footprint, precision: str, images: int, processes: int = 1) -> Line:
    """What a step takes, from two with a few images, at most ``images`` of them.

    Never from one image, of which batch norms of one value have no statistics.
    """
    more = min(images, max(FEW, 4 * processes))
    less = more // 2
    high = footprint(precision, more)
    if less < 2 * processes:
        return Line(0.0, high / more)
    low = footprint(precision, less)
    each = (high - low) / max(1, more - less)
    return Line(max(0.0, high - each * more), each)


def free_bytes(device: torch.device) -> int | None:
    """Memory that a step on this device may take, None where nobody knows."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + kept)
    return available_bytes() if device.type == "cpu" else None


def held_bytes(device: torch.device) -> int:
    """Memory that this process has now on a device, as far as the system says."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return resident_bytes() or 0


@dataclass(frozen=True)
class Outlook:
    """What a training is about to take.

    Attributes:
        precision: of its steps.
        steps: that are to come.
        step_seconds: of one, None where so few are to come that none was tried.
        step_bytes: that a step takes at its peak, beyond what is held.
        held: bytes before the first step: the program, data, weights.
        free: bytes that the device can still give, None if nobody knows.

    """

    precision: str
    steps: int
    step_seconds: float | None
    step_bytes: int
    held: int
    free: int | None

    def told(self) -> str:
        """One line: what is known of the time, and the memory."""
        parts = []
        if self.step_seconds is not None:
            whole = in_time(self.step_seconds * self.steps)
            parts.append(
                f"{counted(self.steps, 'step')} of about {self.step_seconds:.2g} s: {whole}"
            )
        step = in_words(self.step_bytes)
        parts.append(f"memory: about {in_words(self.held + self.step_bytes)}, {step} in a step")
        if self.free is not None:
            parts.append(f"{in_words(self.free)} free")
        return "; ".join(parts)


def check_fits(
    needed: Line, at_once: int, batch: int, free: int | None, section: str, splits: bool
) -> None:
    """Refuse steps that memory does not hold.

    Args:
        needed: by a step.
        at_once: how many images are computed at once.
        batch: and how many make a step.
        free: bytes, None if nobody knows.
        section: of the recipe that says how many.
        splits: whether it can also have a batch computed in parts.

    Raises:
        NeumetaError: says what would fit.

    """
    if free is None or needed.at(at_once) <= SAFE * free:
        return
    told = (
        f"a step on {at_once} images takes about {in_words(needed.at(at_once))} of memory, and "
        f"{in_words(free)} are free"
    )
    fewer = at_once
    while fewer > 1 and needed.at(fewer) > SAFE * free:
        fewer //= 2
    if needed.at(fewer) > SAFE * free:
        raise NeumetaError(f"{told}; even one image is too much: use smaller images")
    same = f", or {section}.accumulate={-(-batch // fewer)} (the same batch in parts)"
    raise NeumetaError(
        f"{told}; set {section}.batch_size={fewer} (about {in_words(needed.at(fewer))})"
        f"{same if splits else ''}"
    )


def in_words(count: float) -> str:
    """Bytes in GiB, or in MiB below one."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / (1 << 20):.0f} MiB"
