"""Pruning at random."""

from typing import Any

from torch import nn

from neumeta_cli.evaluate.methods.base import Bench
from neumeta_cli.evaluate.methods.pruning import Pruning, torch_pruning


class Random(Pruning):
    """Any channels, by the seed."""

    criterion, title = "random", "random pruning"

    def importance(self, model: nn.Module, bench: Bench) -> Any:
        return torch_pruning().importance.RandomImportance()
