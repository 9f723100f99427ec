"""What a method of shrinking a network is given, and what it gives."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from neumeta_cli.checkpoint import Checkpoint
from neumeta_cli.recipe import Recipe
from neumeta_cli.reporting import Reporter
from neumeta_cli.resize import Frame
from neumeta_cli.tasks import Task


@dataclass(frozen=True)
class Bench:
    """The conditions that all methods share.

    Attributes:
        checkpoint: permuted, batch norm not folded.
        frame: of its network, with the scope that shrinks.
        task: data, loss and metric.
        recipe: of this seed: epochs, batch size, augmentation, teacher, widths.
        device: where to compute.
        reporter: is told of the progress.

    """

    checkpoint: Checkpoint
    frame: Frame
    task: Task
    recipe: Recipe
    device: str
    reporter: Reporter

    @property
    def widths(self) -> list[float]:
        """Kept over full channels, in the recipe's order."""
        return [1 - gamma for gamma in self.recipe.eval.gammas]

    @property
    def narrower(self) -> list[float]:
        """Those below 1, where there is something to do."""
        return [width for width in self.widths if width < 1]


@dataclass(frozen=True)
class Outcome:
    """What a method gave.

    Attributes:
        networks: by width; widths that it has no network for are left out.
        seconds: of training, and all that had to be computed for it.
        epochs: of training, over all networks that it trained apart.
        stored_bytes: of all files that the networks are made from.
        stored_parameters: numbers in them.

    """

    networks: Mapping[float, nn.Module]
    seconds: float
    epochs: int
    stored_bytes: int
    stored_parameters: int


class Method(ABC):
    """A way from one checkpoint to networks of many widths.

    Attributes:
        name: on the command line.
        label: in tables.
        trains_widths: whether what is trained depends on the widths of the table.
        needs_labels: whether training images need labels.

    """

    name: str
    label: str
    trains_widths = False

    @property
    def needs_labels(self) -> bool:
        return False

    @abstractmethod
    def run(self, bench: Bench, folder: Path) -> Outcome:
        """Make the networks.

        Args:
            bench: the conditions.
            folder: the method's own; an interrupted run there resumes.

        Raises:
            NeumetaError: the method cannot do this network.

        """

    def check(self) -> None:
        """Raise NeumetaError at once if something that it needs is not installed."""
        return

    def applies(self, model: nn.Module) -> bool:
        """Whether there is anything to do that another method does not do too."""
        return True

    def settings(self) -> dict[str, Any]:
        """What tells this method from another of the same name."""
        return {}
