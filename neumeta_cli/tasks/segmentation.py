"""Segmentation: images in, class scores of every pixel out, mean IoU and F1 over classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neumeta_cli.errors import NeumetaError
from neumeta_cli.tasks.base import Metric, Outputs, Task

if TYPE_CHECKING:
    import torchmetrics
    from matplotlib.figure import Figure

SHOWN = 4  # images in a picture
AT_ONCE = 500  # masks that are looked through


@dataclass(frozen=True)
class Segmentation(Task):
    """Cross-entropy of every pixel but those of class ``data.ignore``; mIoU and F1.

    Networks give scores (B, classes, H, W), or as torchvision's a dict with them under ``out``.
    """

    metrics = (Metric("mIoU"), Metric("F1"))

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """Cross-entropy, averaged over all pixels that count."""
        return F.cross_entropy(_scores(outputs), targets.long(), ignore_index=self._ignored)

    def divergence(self, outputs: Outputs, teacher: Outputs, temperature: float) -> Tensor:
        """KL divergence from the teacher's softened outputs, a pixel's mean, times temperature²."""
        own, other = (F.log_softmax(_scores(o) / temperature, dim=1) for o in (outputs, teacher))
        return F.kl_div(own, other, reduction="none", log_target=True).sum(1).mean() * (
            temperature**2
        )

    def targets(self, x: Tensor, labels: Tensor) -> Tensor:
        """Masks; one with a class that there is not is refused."""
        self._check_classes(labels)
        return labels

    def _check_classes(self, masks: Tensor) -> None:
        count = self._classes()
        wrong = masks[(masks >= count) & (masks != self._ignored)]
        if len(wrong):
            raise NeumetaError(
                f"masks have class {int(wrong.max())}, but there are {count:,} classes from 0 "
                "(data.classes); a class that does not count is data.ignore"
            )

    def meters(self) -> "Mapping[str, torchmetrics.Metric]":
        from torchmetrics.classification import MulticlassJaccardIndex

        from neumeta_cli.tasks.meters import MeanF1

        count, ignored = self._classes(), self.data.ignore
        return {
            "mIoU": MulticlassJaccardIndex(count, average="macro", ignore_index=ignored),
            "F1": MeanF1(count, ignored),
        }

    def predictions(self, outputs: Outputs, targets: Tensor) -> tuple[Tensor, Tensor]:
        return _scores(outputs).argmax(1), targets.long()

    def check(self, model: nn.Module, outputs: Outputs) -> None:
        scores = _scores(outputs)
        if not isinstance(scores, Tensor) or scores.dim() != 4:
            raise NeumetaError("the network does not segment: it gives no scores for each pixel")
        if not self.test.masks and (self.test.labels is None or self.test.labels.dim() != 3):
            raise NeumetaError(
                "the data have no masks; segmentation needs data.format mask_folder or voc"
            )
        if scores.shape[-2:] != self.test.image_size:
            raise NeumetaError(
                f"the network gives scores for {_by(scores.shape[-2:])} pixels, the images have "
                f"{_by(self.test.image_size)}"
            )
        if scores.shape[1] != self._classes():
            raise NeumetaError(
                f"data.classes is {self._classes()}, the network gives {scores.shape[1]} scores "
                "for each pixel"
            )
        for images in (self.test, self.train):
            held = None if images is None else images.labels
            for few in () if held is None else held.split(AT_ONCE):
                self._check_classes(few)

    @torch.no_grad()
    def pictures(self, model: nn.Module) -> "Mapping[str, Figure]":
        """Predicted masks beside the images and the true masks."""
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        index = torch.linspace(0, len(self.test) - 1, min(SHOWN, len(self.test))).long()
        x, masks = self.batch(self.test, index, None)
        predicted = _scores(model(x.to(device))).argmax(1).cpu()
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.0, 2.3 * len(index)), layout="constrained")
        columns = zip(self.test.fetch(index), masks, predicted, strict=True)
        for row, (image, mask, found) in enumerate(columns):
            hidden = torch.where(mask == self._ignored, torch.nan, mask.float())
            shown = ((image.permute(1, 2, 0), "image"), (hidden, "mask"), (found, "predicted"))
            for column, (values, title) in enumerate(shown):
                axes = figure.add_subplot(len(index), 3, 3 * row + column + 1)
                most = self._classes() - 1
                axes.imshow(values.numpy(), "tab20", interpolation="nearest", vmin=0, vmax=most)
                axes.set_axis_off()
                if row == 0:
                    axes.set_title(title, fontsize=9)
        return {"masks": figure}

    def _classes(self) -> int:
        if self.data.classes is None:
            raise NeumetaError("segmentation needs data.classes, the number of classes in masks")
        return self.data.classes

    @property
    def _ignored(self) -> int:
        return -100 if self.data.ignore is None else self.data.ignore


def _scores(outputs: Outputs) -> Tensor:
    found: Tensor = outputs["out"] if isinstance(outputs, Mapping) else outputs
    return found


def _by(size: tuple[int, ...]) -> str:
    return "×".join(map(str, size))
