"""How accurate a fit is at a few widths while it runs."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from neumeta_cli.distill.settings import WatchSection
from neumeta_cli.manifold import Manifold
from neumeta_cli.tasks import Task


class Watch:
    """Accuracy on a few test images; one unperturbed draw a width, so a little off the table's.

    Args:
        task: its test images.
        chosen: how many of them, and at which γ.

    """

    def __init__(self, task: Task, chosen: WatchSection) -> None:
        count = min(chosen.watch, len(task.test))
        self.task = replace(task, train=None, test=task.test.take(count, seed=0))
        self.gammas = chosen.watch_gammas if count and task.knows(task.test) else []
        self.metric = task.metrics[0]

    def tell(self, seen: Mapping[str, float]) -> str:
        """What ``look`` has seen, for a line of progress."""
        return "".join(f", {name} {self.metric.show(value)}" for name, value in seen.items())

    @torch.no_grad()
    def look(self, manifold: Manifold, average: nn.Module) -> dict[str, float]:
        """The metric at each γ with the averaged INR; the fit's own numbers do not change."""
        fitted = manifold.inr
        manifold.inr = average  # type: ignore[assignment]
        try:
            return {
                f"{self.metric.name} at γ {gamma:.0%}": self.task.evaluate(
                    manifold.sample(1 - gamma, samples=0)
                )
                for gamma in self.gammas
            }
        finally:
            manifold.inr = fitted
