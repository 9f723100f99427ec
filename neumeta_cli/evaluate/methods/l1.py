"""Pruning by ℓ1 norm."""

from typing import Any

from torch import nn

from neumeta_cli.evaluate.methods.base import Bench
from neumeta_cli.evaluate.methods.pruning import Pruning, torch_pruning


class L1(Pruning):
    """Channels of large ℓ1 norm over all weights of the clique (Li et al., 2017)."""

    criterion, title = "l1", "ℓ1 pruning"

    def importance(self, model: nn.Module, bench: Bench) -> Any:
        return torch_pruning().importance.GroupMagnitudeImportance(p=1)
