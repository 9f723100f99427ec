"""Meters that torchmetrics has not."""

from typing import Any

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.classification import MulticlassF1Score


class MeanOf(torchmetrics.MeanMetric):
    """The mean of one row of the values that it is shown."""

    def __init__(self, row: int) -> None:
        super().__init__()
        self.row = row

    def update(self, values: Tensor) -> None:  # type: ignore[override]
        super().update(values[self.row])


class MeanF1(MulticlassF1Score):
    """The mean over classes that occur, in masks or predictions, and count."""

    def __init__(self, classes: int, ignored: int | None) -> None:
        super().__init__(classes, average="none", ignore_index=ignored)

    def compute(self) -> Tensor:
        each: Tensor = super().compute()
        counts: list[Any] = [self.tp, self.fp, self.fn]
        occurs = torch.stack(counts).sum(0) > 0
        if self.ignore_index is not None and self.ignore_index < len(occurs):
            occurs[self.ignore_index] = False
        return each[occurs].mean()
