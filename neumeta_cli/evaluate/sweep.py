"""Accuracy and cost over widths."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neumeta_cli.evaluate.baselines import prune_l1
from neumeta_cli.manifold import Manifold
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.resize import Cost, measure_cost
from neumeta_cli.tasks import Classification

MANIFOLD = "NeuMeta"
PRUNED = "ℓ1 pruning"
CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Row:
    """One network in the table.

    Attributes:
        method: which way it was made.
        width: channels kept over channels of the checkpoint.
        cost: parameters, MACs, bytes.
        accuracy: top-1, 0 to 1.

    """

    method: str
    width: float
    cost: Cost
    accuracy: float

    @property
    def gamma(self) -> float:
        return 1 - self.width

    def as_dict(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "width": self.width,
            "gamma": round(self.gamma, 6),
            **asdict(self.cost),
            "accuracy": self.accuracy,
        }


def evaluate_network(model: nn.Module, method: str, width: float, task: Classification) -> Row:
    """Measure one network."""
    size = task.inputs(task.test, torch.arange(1), None).shape[1:]
    return Row(method, width, measure_cost(model, tuple(size)), task.evaluate(model))


def sweep(
    manifold: Manifold,
    task: Classification,
    widths: Sequence[float],
    original: Mapping[str, Tensor] | None = None,
    samples: int | None = None,
    reporter: Reporter | None = None,
) -> list[Row]:
    """Sample the manifold at each width and measure it, side by side with pruning.

    Args:
        manifold: a fitted one.
        task: test data.
        widths: kept over full channels, of the cliques in scope.
        original: the checkpoint's weights as the manifold learnt them; without them nothing is
            pruned.
        samples: K, the manifold's own if None.
        reporter: is told of the progress.

    """
    reporter = reporter or Silent()
    device = next(iter(manifold.field.parameters())).device
    methods = 1 if original is None else 2
    reporter.start("evaluate", methods * len(widths))
    rows = []
    for width in widths:
        network = manifold.sample(width, samples=samples)
        rows.append(evaluate_network(network, MANIFOLD, width, task))
        reporter.advance(1, f"width {width:g}: {rows[-1].accuracy:.2%}")
    for width in widths if original is not None else ():
        assert original is not None
        pruned = prune_l1(manifold.structure, manifold.trace, original, manifold.sizes(width))
        rows.append(evaluate_network(pruned.to(device), PRUNED, width, task))
        reporter.advance(1, f"{PRUNED} {width:g}: {rows[-1].accuracy:.2%}")
    reporter.finish()
    return rows
