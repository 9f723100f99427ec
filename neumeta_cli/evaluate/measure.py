"""A task's metrics, cost and latency of networks over widths."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from neumeta_cli.evaluate.latency import measure_latency
from neumeta_cli.evaluate.prune import L1_PRUNING
from neumeta_cli.hardware import give_back_memory
from neumeta_cli.manifold import Manifold
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.resize import Cost, measure_cost
from neumeta_cli.tasks import Metric, Task

MANIFOLD = "NeuMeta"
CHECKPOINT = "checkpoint"
LATENCY = "seconds_batch_"  # and the batch size: a column of files


Look = Callable[[float, nn.Module], object]  # what is shown a network, with its width


def unseen(width: float, network: nn.Module) -> None:
    """Look at nothing."""


@dataclass(frozen=True)
class Row:
    """One network in the table.

    Attributes:
        method: which way it was made.
        width: channels kept over channels of the checkpoint.
        cost: parameters, MACs, bytes.
        metrics: of the task, by name.
        latency: seconds of a forward pass by batch size, where it was measured.
        samples: K, for a network that was sampled.

    """

    method: str
    width: float
    cost: Cost
    metrics: Mapping[str, float]
    latency: Mapping[int, float] = field(default_factory=dict)
    samples: int | None = None

    @property
    def gamma(self) -> float:
        return 1 - self.width

    def as_dict(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "width": self.width,
            "gamma": round(self.gamma, 6),
            **asdict(self.cost),
            "metrics": dict(self.metrics),
            **{f"{LATENCY}{batch}": seconds for batch, seconds in self.latency.items()},
            **({} if self.samples is None else {"samples": self.samples}),
        }


def tell(row: Row, task: Task) -> str:
    """The metrics of a network, for a line of progress."""
    return ", ".join(f"{m.name} {m.show(row.metrics[m.name])}" for m in shown(task.metrics, [row]))


def shown(metrics: Sequence[Metric], rows: Sequence[Row]) -> list[Metric]:
    """Those metrics that the rows have."""
    return [m for m in metrics if any(m.name in row.metrics for row in rows)]


def evaluate_network(
    model: nn.Module,
    method: str,
    width: float,
    task: Task,
    batches: Sequence[int] = (),
    samples: int | None = None,
    cost: Cost | None = None,
) -> Row:
    """Measure one network, its latency at each of these batch sizes too.

    Its cost is counted, unless it is known. What making it, timing it and running it leave is of
    other sizes each time, and would add up: it is given back between them.
    """
    size = tuple(task.inputs(task.test, torch.arange(1), None).shape[1:])
    latency = {}
    for batch in batches:
        give_back_memory()
        latency[batch] = measure_latency(model, size, batch)
    cost = cost or measure_cost(model, size)
    give_back_memory()
    return Row(method, width, cost, task.measure(model), latency, samples)


def sweep(
    manifold: Manifold,
    task: Task,
    widths: Sequence[float],
    pruned: Callable[[float], nn.Module] | None = None,
    samples: Sequence[int] = (),
    reporter: Reporter | None = None,
    batches: Sequence[int] = (),
    look: Look = unseen,
) -> list[Row]:
    """Sample the manifold at each width and measure it, side by side with pruning.

    Args:
        manifold: a fitted one.
        task: test data.
        widths: kept over full channels, of the cliques in scope.
        pruned: gives the checkpoint pruned to a width, at most 1; without it nothing is.
        samples: every K to sample with, the manifold's own if there are none.
        reporter: is told of the progress.
        batches: sizes of batches whose latency is measured.
        look: is shown each network of the manifold, with its width.

    """
    reporter = reporter or Silent()
    counts: Sequence[int | None] = list(samples) or [None]
    narrower = [w for w in widths if w <= 1] if pruned is not None else []
    reporter.start("evaluate", len(counts) * len(widths) + len(narrower))
    rows = []
    for count in counts:
        for width in widths:
            network = manifold.sample(width, samples=count)
            k = manifold.noise.samples if count is None else count
            rows.append(evaluate_network(network, MANIFOLD, width, task, batches, k))
            look(width, network)
            reporter.advance(1, f"width {width:g}: {tell(rows[-1], task)}")
    for width in narrower:
        assert pruned is not None
        rows.append(evaluate_network(pruned(width), L1_PRUNING, width, task))
        reporter.advance(1, f"{L1_PRUNING} {width:g}: {tell(rows[-1], task)}")
    reporter.finish()
    return rows
