"""What a training loop is given: something that takes steps, and what a recipe says of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from neumeta_cli.training.kept import KeptMemory


@dataclass(frozen=True)
class Place:
    """Where in a training a step lies.

    After 50 of 100 steps a cosine is half-way down; a loop that has gone back once since takes
    half of that::

        >>> place = Place(step=50, total=100, factor=0.5)
        >>> round(place.factor * place.decay, 3)
        0.25

    Attributes:
        step: how many steps were taken before.
        total: steps of the whole training.
        factor: of the learning rate, halved each time that the loop goes back.

    """

    step: int = 0
    total: int = 1
    factor: float = 1.0

    @property
    def decay(self) -> float:
        """Half a cosine, from 1 at the first step to 0 after the last."""
        return 0.5 * (1 + math.cos(math.pi * self.step / self.total))


START = Place()


class Learner(Protocol):
    """What a loop trains. In each of several processes it does the same to its part of a batch.

    Attributes:
        device: where it computes.
        choices: draws the order of images, and whatever else all processes draw alike.
        lowered: whether it computes in bfloat16; the loop sets it.
        kept: freed memory; told of by what takes memory one after another within a step.

    """

    device: torch.device
    choices: torch.Generator
    lowered: bool
    kept: KeptMemory

    @property
    def pieces(self) -> int | None:
        """Into how many parts it splits a batch, computed one after another; None: it cannot."""

    def expect(self, batches: Sequence[Tensor], step: int) -> None:
        """Learn which training images the steps from ``step`` on will be taken on."""

    def take(self, index: Tensor, place: Place) -> dict[str, float] | None:
        """One step on the training images ``index``, (b,), of all processes together.

        Returns:
            The parts of its loss, or None if it was skipped: the loss or its gradient is not
            finite, and nothing has changed but generators.

        """

    def rehearse(self, precision: str, number: int, images: int) -> None:
        """What a step computes up to its gradients, leaving everything as it was.

        Args:
            precision: to compute it in.
            number: each draws other numbers, the same in every precision.
            images: how many training images, the first ones.

        """

    def footprint(self, precision: str, images: int) -> int:
        """Bytes that the tensors of a step on the first images take at their most.

        It leaves everything as it was.
        """

    def look(self) -> tuple[dict[str, float], str]:
        """What is measured at an epoch's end, and how a line of progress tells it."""

    def shared(self) -> Iterable[Tensor]:
        """What must be the same in every process when the loop begins."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Be again as ``state_dict`` found it; any exception says that it is another's state."""


class LoopSettings(Protocol):
    """What a section of a recipe says of a loop."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def precision(self) -> str: ...
    @property
    def save_steps(self) -> int: ...
