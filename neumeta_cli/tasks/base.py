"""What every task is: data, loss, metrics, and what of its outputs can be looked at."""

import hashlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from neumeta_cli.data.formats import load_images
from neumeta_cli.data.images import Asked, Images, normalise
from neumeta_cli.data.settings import DataSection
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Reporter

if TYPE_CHECKING:
    import torchmetrics
    from matplotlib.figure import Figure

PIXELS_AT_ONCE = 1 << 19  # of images that a network is measured on

Outputs = Any  # what a network returns: a tensor, or tensors in a tuple or dict


@dataclass(frozen=True)
class Metric:
    """A number that a table shows.

    Accuracy is a share, and better when it is higher; nats are neither::

        >>> Metric("top-1").show(0.9713), Metric("NLL", share=False).show(88.125)
        ('97.13%', '88.12')
        >>> Metric("NLL", higher_is_better=False).reaches(80, target=88)
        True

    Attributes:
        name: in tables and files.
        higher_is_better: accuracy, say, not an error.
        share: of 1, shown in percent.

    """

    name: str
    higher_is_better: bool = True
    share: bool = True

    def show(self, value: float) -> str:
        return f"{value:.2%}" if self.share else f"{value:,.4g}"

    def reaches(self, value: float, target: float) -> bool:
        """Whether a value is as good as a target."""
        return value >= target if self.higher_is_better else value <= target

    def show_of(self, value: float, images: int) -> str:
        """A value with its standard error on so many images, where it is a share of them."""
        if not self.share:
            return self.show(value)
        return f"{self.show(value)} ± {math.sqrt(max(0.0, value * (1 - value)) / images):.2%}"

    @property
    def scale(self) -> float:
        """What values are multiplied by in pictures and tables."""
        return 100.0 if self.share else 1.0

    @property
    def axis(self) -> str:
        """The name with its unit."""
        return f"{self.name} (%)" if self.share else self.name

    def scaled(self, value: float, spread: float | None = None) -> str:
        """A value in the unit of ``axis``, with its standard deviation where there is one."""
        text = f"{self.scale * value:,.2f}"
        return text if spread is None else f"{text} ± {self.scale * spread:,.2f}"

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "higher_is_better": self.higher_is_better, "share": self.share}


def _alone() -> bool:
    """Tells meters that a process which measures sees all test images itself."""
    return False


@dataclass(frozen=True)
class Task(ABC):
    """The data, loss and metrics of a task. A user's own is a subclass, named in the recipe.

    A subclass gives ``metrics``, ``loss`` and ``meters``, and whatever else differs: ``load`` where
    the data are none of the formats that ``data.format`` knows, ``predictions`` where meters do not
    take outputs as they are, ``divergence`` for another way to follow a teacher.

    A classifier of ten digits that prefers none loses ln 10 = 2.303 a digit::

        >>> task = Classification(data, None, load_images(data, "test", (1, 8, 8)))
        >>> x, targets = task.batch(task.test, torch.arange(5), None)
        >>> tuple(x.shape), tuple(targets.shape)
        ((5, 1, 8, 8), (5,))
        >>> round(task.loss(torch.zeros(5, 10), targets).item(), 3)
        2.303

    Attributes:
        data: how images are read, normalised and augmented.
        train, test: the splits; ``train`` is None where only evaluation is wanted.

    """

    data: DataSection
    train: Images | None
    test: Images

    metrics: ClassVar[tuple[Metric, ...]]  # the first is the one that comparisons go by
    samples: ClassVar[bool] = False  # whether networks draw random numbers in training
    supervised: ClassVar[bool] = True  # whether loss and metrics need labels

    @classmethod
    def load(
        cls,
        data: DataSection,
        split: str,
        input_size: tuple[int, int, int],
        reporter: Reporter | None = None,
    ) -> Images:
        """Open the split ``train`` or ``test``, by default in the recipe's ``data.format``.

        Raises:
            NeumetaError: it cannot be opened.

        """
        return load_images(data, split, input_size, reporter)

    @abstractmethod
    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """What training lowers: a scalar, averaged over the batch."""

    @abstractmethod
    def meters(self) -> "Mapping[str, torchmetrics.Metric]":
        """A fresh meter for the name of each metric."""

    def predictions(self, outputs: Outputs, targets: Tensor) -> tuple[Any, ...]:
        """What the meters are updated with."""
        return outputs, targets

    def divergence(self, outputs: Outputs, teacher: Outputs, temperature: float) -> Tensor:
        """How far outputs are from a teacher's: a scalar, averaged over the batch."""
        raise NeumetaError(f"{type(self).__name__} has no divergence; set loss.distill=0")

    def knows(self, images: Images | None) -> bool:
        """Whether loss and metrics can be computed of these images."""
        return images is not None and (images.labelled or not self.supervised)

    def require_labels(self, what: str, training: bool = True) -> None:
        """Refuse images without labels where there is nothing to do without.

        Args:
            what: needs them, in words.
            training: whether training images need them too, not only those for testing.

        Raises:
            NeumetaError: training or test images have none.

        """
        for split, images in (("training", self.train if training else None), ("test", self.test)):
            if images is not None and not self.knows(images):
                raise NeumetaError(
                    f"{what} needs {split} images with labels; put them in a folder for each class"
                )

    def batch(
        self,
        images: Images,
        index: Tensor,
        generator: torch.Generator | None,
        part: slice = slice(None),
    ) -> tuple[Tensor, Tensor]:
        """Inputs and targets of images by number, augmented if a generator is given.

        Only those of ``part`` are read, but all are drawn for: parts together are the whole batch.

        Returns:
            (b, C, H, W) float32 as the network takes them, and (b, …) targets.

        """
        pixels, labels = images.batch(index, self.data, generator, part)
        x = normalise(pixels, self.data)
        return x, self.targets(x, labels)

    def batches(
        self,
        images: Images,
        asked: Iterable[Asked],
        device: torch.device | str = "cpu",
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """``batch`` for each of these arguments, read ahead where the images lie in files.

        Args:
            images: a split.
            asked: index, generator and part of each batch.
            device: where what was read ahead is put.

        """
        asked = list(asked)
        images.expect(asked, self.data, device)
        for index, generator, part in asked:
            yield self.batch(images, index, generator, part)

    def targets(self, x: Tensor, labels: Tensor) -> Tensor:
        """What the loss compares outputs for ``x`` with, (b, …): the labels, unless said otherwise.

        Raises:
            NeumetaError: the labels are not right for the task.

        """
        return labels

    def inputs(
        self,
        images: Images,
        index: Tensor,
        generator: torch.Generator | None,
        part: slice = slice(None),
    ) -> Tensor:
        """The inputs of ``batch`` alone."""
        return self.batch(images, index, generator, part)[0]

    @torch.no_grad()
    def measure(
        self,
        model: nn.Module,
        batch_size: int = 500,
        advance: Callable[[int], object] = lambda _: None,
    ) -> dict[str, float]:
        """Every metric of a network on the test data; none where they have no labels."""
        if not self.knows(self.test):
            return {}
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        meters = self.meters()
        for meter in meters.values():
            meter.distributed_available_fn = _alone
        with self.drawing(model, seed=0):
            for x, targets in self.batches(self.test, self.in_order(batch_size), device):
                seen = self.predictions(model(x.to(device)), targets.to(device))
                for meter in meters.values():
                    meter.to(device).update(*seen)
                advance(len(x))
        return {name: round(float(meter.compute()), 7) for name, meter in meters.items()}

    def evaluate(self, model: nn.Module) -> float:
        """The first metric of a network on the test data."""
        return self.measure(model)[self.metrics[0].name]

    def in_order(self, batch_size: int) -> list[Asked]:
        """All test images, in batches that fit in memory."""
        index = torch.arange(len(self.test))
        return [(part, None, slice(None)) for part in index.split(self.rows(batch_size))]

    def rows(self, batch_size: int) -> int:
        """How many images at once, so that these take less memory than a training step."""
        height, width = self.test.image_size
        return max(1, min(batch_size, PIXELS_AT_ONCE // max(1, height * width)))

    @contextmanager
    def drawing(self, model: nn.Module, seed: int) -> Iterator[None]:
        """Let networks that draw random numbers in training do so, the same for a seed.

        Only the network itself is told that it trains, not the norms in it.
        """
        if not self.samples:
            yield
            return
        before, model.training = model.training, True
        try:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                yield
        finally:
            model.training = before

    def fingerprint(self) -> list[str]:
        """Digests of the data and of the file of this class, which results depend on."""
        splits = [s.fingerprint() for s in (self.train, self.test) if s is not None]
        source = Path(inspect.getfile(type(self))).read_bytes()
        return [*splits, hashlib.sha256(source).hexdigest()]

    def check(self, model: nn.Module, outputs: Outputs) -> None:
        """Refuse a network that does not go with the task, by its outputs for one image.

        Raises:
            NeumetaError: says what is expected.

        """
        return

    def distribution(self, outputs: Outputs) -> Tensor | None:
        """Scores (n, classes) whose softmax tells networks apart; None where there are none."""
        return None

    def pictures(self, model: nn.Module) -> "Mapping[str, Figure]":
        """What a network does, to be looked at: a figure for each name."""
        return {}
