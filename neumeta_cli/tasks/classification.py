"""Classification: images in, class scores out, accuracy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from neumeta_cli.data.images import Images
from neumeta_cli.errors import NeumetaError
from neumeta_cli.tasks.base import Metric, Outputs, Task

if TYPE_CHECKING:
    import torchmetrics

FIVE_OF = 100  # classes, from which on top-5 tells something
SHOWN = 3  # names of classes in a message


@dataclass(frozen=True)
class Classification(Task):
    """Cross-entropy and top-1 accuracy; top-5 too where there are many classes."""

    metrics = (Metric("top-1"), Metric("top-5"))

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """Cross-entropy, averaged over the batch."""
        return F.cross_entropy(outputs, targets)

    def divergence(self, outputs: Outputs, teacher: Outputs, temperature: float) -> Tensor:
        """KL divergence from the teacher's softened outputs, times temperature²."""
        divergence = F.kl_div(
            F.log_softmax(outputs / temperature, dim=1),
            F.log_softmax(teacher / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return divergence * temperature**2

    def meters(self) -> "Mapping[str, torchmetrics.Metric]":
        from torchmetrics.classification import MulticlassAccuracy

        count = len(self.test.classes)
        made = {"top-1": MulticlassAccuracy(count, average="micro")}
        if count >= FIVE_OF:
            made["top-5"] = MulticlassAccuracy(count, average="micro", top_k=5)
        return made

    def distribution(self, outputs: Outputs) -> Tensor | None:
        return outputs if isinstance(outputs, Tensor) else None

    def check(self, model: nn.Module, outputs: Outputs) -> None:
        if not isinstance(outputs, Tensor) or outputs.dim() != 2:
            raise NeumetaError(
                f"the network is no classifier: it gives {_described(outputs)}, not one row of "
                "scores; name what it does as task in a recipe (--save-recipe, --set task=…): "
                "segmentation, generation, or package.module:Class of your own"
            )
        for split, images in (("training", self.train), ("test", self.test)):
            if images is not None and images.labelled:
                self._check_classes(split, images, outputs.shape[1])

    def _check_classes(self, split: str, images: Images, scores: int) -> None:
        if not images.classes or images.labels is None:
            raise NeumetaError("the data have no classes; they do not go with classification")
        count, named = len(images.classes), ", ".join(images.classes[:SHOWN])
        more = ", …" if count > SHOWN else ""
        if count == 1:
            raise NeumetaError(
                f"the {split} images are of one class, {named}; classification has two or more. If "
                "the folder is no class, say --set data.labels=false, and labels are not used"
            )
        if count != scores:
            raise NeumetaError(
                f"the {split} data have {count:,} classes ({named}{more}), the network gives "
                f"{scores:,} scores; give data of the network's classes, or fit without labels: "
                "--set data.labels=false"
            )


def _described(outputs: Outputs) -> str:
    if isinstance(outputs, Tensor):
        return f"a tensor of {'×'.join(map(str, outputs.shape[1:])) or 'no more'} for each image"
    return f"a {type(outputs).__name__}"
