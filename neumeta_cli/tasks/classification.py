"""Classification: images in, class scores out, top-1 accuracy."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neumeta_cli.errors import NeumetaError
from neumeta_cli.recipe import DataSection
from neumeta_cli.reporting import Reporter
from neumeta_cli.tasks.images import Images, augment, load_images, normalise


@dataclass(frozen=True)
class Classification:
    """The data, loss and metric of a classification task.

    Attributes:
        data: how images are normalised and augmented.
        train, test: the splits; ``train`` is None where only evaluation is wanted.

    """

    data: DataSection
    train: Images | None
    test: Images

    metric = "top-1"

    def inputs(
        self,
        images: Images,
        index: Tensor,
        generator: torch.Generator | None,
        part: slice = slice(None),
    ) -> Tensor:
        """Images by number as the network takes them, augmented if a generator is given.

        Only those of ``part`` are read, but all are drawn for: parts together are the whole batch.
        """
        pixels = images.fetch(index[part])
        if generator is not None:
            pixels = augment(pixels, self.data, generator, len(index), part)
        return normalise(pixels, self.data)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, averaged over the batch."""
        return F.cross_entropy(scores, labels)

    def divergence(self, scores: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """KL divergence from the teacher's softened outputs, times temperature²."""
        divergence = F.kl_div(
            F.log_softmax(scores / temperature, dim=1),
            F.log_softmax(teacher / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return divergence * temperature**2

    @torch.no_grad()
    def evaluate(
        self,
        model: nn.Module,
        batch_size: int = 500,
        advance: Callable[[int], object] = lambda _: None,
    ) -> float:
        """Top-1 accuracy on the test images, 0 to 1."""
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        right = 0
        for index in torch.arange(len(self.test)).split(batch_size):
            scores = model(self.inputs(self.test, index, None).to(device))
            right += int((scores.argmax(1).cpu() == self.test.labels[index]).sum())
            advance(len(index))
        return right / len(self.test)


def load_task(
    data: DataSection,
    model: nn.Module,
    input_size: tuple[int, int, int],
    train: bool = True,
    limit: int | None = None,
    reporter: Reporter | None = None,
) -> Classification:
    """Open a task's data and check that it goes with the network.

    Raises:
        NeumetaError: the data cannot be opened, or its number of classes, channels or pixels is
            not the network's.

    """
    test = load_images(data, "test", input_size, reporter)
    training = load_images(data, "train", input_size, reporter) if train else None
    if training is not None and training.classes != test.classes:
        raise NeumetaError(
            f"the training data have {len(training.classes)} classes, the test data "
            f"{len(test.classes)}, or they are named differently"
        )
    task = Classification(data, training, test)
    example = task.inputs(test, torch.arange(1), None)
    if tuple(example.shape[1:]) != tuple(input_size):
        got, wanted = ("×".join(map(str, s)) for s in (example.shape[1:], input_size))
        raise NeumetaError(f"the images are {got}, the network takes {wanted}")
    with torch.no_grad():
        scores = model(example.to(next(model.parameters()).device))
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        raise NeumetaError("the network is no classifier: it does not give one row of scores")
    if scores.shape[1] != len(test.classes):
        raise NeumetaError(
            f"the data have {len(test.classes)} classes, the network gives {scores.shape[1]} scores"
        )
    if training is not None and limit is not None and limit < len(training):
        training = training.take(limit, seed=0)
    return Classification(data, training, test)
