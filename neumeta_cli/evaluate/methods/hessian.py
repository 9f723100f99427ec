"""Pruning by what the loss would change, to second order."""

from typing import Any

import torch
from torch import nn

from neumeta_cli.evaluate.methods.base import Bench
from neumeta_cli.evaluate.methods.pruning import Pruning, loss_on, random_images, torch_pruning

IMAGES = 256


class Hessian(Pruning):
    """Optimal brain damage: squared weights times the Hessian's diagonal (LeCun et al., 1989)."""

    criterion, title = "hessian", "Hessian pruning"

    def importance(self, model: nn.Module, bench: Bench) -> Any:
        self.differentiate(model, bench)
        return torch_pruning().importance.GroupHessianImportance()

    def differentiate(self, model: nn.Module, bench: Bench) -> None:
        """Leave in ``grad`` the mean square of the gradients of single training images.

        torch-pruning's own sum over images keeps the last one alone.
        """
        index = random_images(bench, IMAGES)
        squares = {p: torch.zeros_like(p) for p in model.parameters()}
        for one in index:
            model.zero_grad()
            loss_on(model, bench, one[None]).backward()
            for p, square in squares.items():
                if p.grad is not None:
                    square += p.grad.square() / len(index)
        for p, square in squares.items():
            p.grad = square
