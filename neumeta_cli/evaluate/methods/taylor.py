"""Pruning by what the loss would change, to first order."""

from typing import Any

from torch import nn

from neumeta_cli.evaluate.methods.base import Bench
from neumeta_cli.evaluate.methods.pruning import Pruning, loss_on, random_images, torch_pruning

IMAGES, AT_ONCE = 1024, 128


class Taylor(Pruning):
    """Channels of large weight times gradient (Molchanov et al., 2019)."""

    criterion, title = "taylor", "Taylor pruning"

    def importance(self, model: nn.Module, bench: Bench) -> Any:
        self.differentiate(model, bench)
        return torch_pruning().importance.GroupTaylorImportance()

    def differentiate(self, model: nn.Module, bench: Bench) -> None:
        """Leave in ``grad`` the gradient of the mean loss over some training images."""
        index = random_images(bench, IMAGES)
        model.zero_grad()
        for part in index.split(AT_ONCE):
            (loss_on(model, bench, part) * len(part) / len(index)).backward()
