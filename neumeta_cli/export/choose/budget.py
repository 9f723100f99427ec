"""The width for a budget: the widest network that costs no more, the narrowest that is as good."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from neumeta_cli.checkpoint import write_atomically
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate import measure_latency
from neumeta_cli.export.choose.wish import Choice, cost_of
from neumeta_cli.manifold import Manifold
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.resize import Cost
from neumeta_cli.tasks import Metric

WEIGHT = 0.01  # of all weights of a network that is only timed
LATENCY_SECONDS = 0.2  # of timing a network


class Part(float):
    """A limit that is a share of what the network costs that a manifold was fitted to."""


@dataclass(frozen=True)
class Budget:
    """The most that a network may cost; None: as much as it likes.

    All but the latency may be a ``Part``.

    Attributes:
        parameters: how many.
        macs: multiply-accumulates for one input.
        bytes: of its file.
        seconds: latency of a batch of one, here.

    """

    parameters: float | None = None
    macs: float | None = None
    bytes: float | None = None
    seconds: float | None = None

    @property
    def limits(self) -> dict[str, float]:
        """What is limited, by name."""
        return {name: most for name, most in vars(self).items() if most is not None}

    def beside(self, whole: Callable[[], Mapping[str, float]]) -> "Budget":
        """The same in amounts, where the whole network costs what ``whole`` says."""
        parts = {name: most for name, most in self.limits.items() if isinstance(most, Part)}
        if not parts:
            return self
        costs = whole()
        return replace(self, **{name: part * costs[name] for name, part in parts.items()})


OPTIONS = {
    "parameters": "--max-params",
    "macs": "--max-macs",
    "bytes": "--max-size",
    "seconds": "--max-latency",
}


@dataclass(frozen=True)
class Found:
    """A network for a budget: the width of the cliques that no wish names, sizes, what it costs."""

    width: float
    sizes: dict[str, int]
    cost: dict[str, float]
    dropped: tuple[str, ...] = ()  # the blocks that it lacks


class Meter:
    """What networks cost, as far as a budget limits it; each is measured once.

    Args:
        manifold: that gives them.
        budget: what it limits.
        scale: bytes of a file for each byte of float32 weights.
        overhead: further bytes of a file.

    """

    def __init__(
        self, manifold: Manifold, budget: Budget, scale: float = 1.0, overhead: float = 0.0
    ) -> None:
        self.manifold, self.scale, self.overhead = manifold, scale, overhead
        whole = manifold.frame.whole
        self.budget = budget.beside(lambda: self._named(whole.cost(whole.full)))
        self._known: dict[Any, dict[str, float]] = {}

    def cost(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """The cost by the names of the budget's limits."""
        key = tuple(sizes.items())
        if key not in self._known:
            self._known[key] = self._measure(sizes)
        return self._known[key]

    def share(self, sizes: Mapping[str, int]) -> float:
        """Of the budget, what is spent of the limit that comes first; above 1 it does not hold."""
        cost = self.cost(sizes)
        return max((cost[name] / most for name, most in self.budget.limits.items()), default=0.0)

    def _measure(self, sizes: Mapping[str, int]) -> dict[str, float]:
        known = self._named(cost_of(self.manifold, sizes))
        if self.budget.seconds is not None:
            known["seconds"] = latency_of(self.manifold, sizes)
        return {name: known[name] for name in self.budget.limits}

    def _named(self, cost: Cost) -> dict[str, float]:
        known = {"parameters": float(cost.parameters), "macs": float(cost.macs)}
        return known | {"bytes": cost.bytes * self.scale + self.overhead}


def latency_of(manifold: Manifold, sizes: Mapping[str, int]) -> float:
    """Median seconds of a forward pass of one input here, whatever the weights are."""
    skeleton = manifold.frame.build(
        sizes,
        {
            name: torch.full(tensor.shape, WEIGHT).to(tensor.dtype)
            for name, tensor in manifold.skeleton(sizes).state_dict().items()
        }
        | {n: t.cpu() for n, t in manifold.fixed_at(sizes).items()},
    )
    return measure_latency(skeleton, manifold.input_size, 1, LATENCY_SECONDS)


def widest_within(choice: Choice, meter: Meter, reporter: Reporter | None = None) -> Found:
    """The widest network that holds a budget, by bisection over all that differ.

    Exact where a wider network never costs less, which timing alone may break.

    Raises:
        NeumetaError: the smallest network costs more.

    """
    reporter, grid = reporter or Silent(), choice.grid()

    def holds(place: int) -> bool:
        reporter.advance()
        return meter.share(choice.sizes(grid[place])) <= 1

    reporter.start("fit the budget", 2 + math.ceil(math.log2(len(grid))))
    if not holds(0):
        raise NeumetaError(_impossible(meter, choice.sizes(grid[0])))
    best = _last(len(grid), holds)
    reporter.finish()
    return found_at(choice, meter, grid[best])


def found_at(choice: Choice, meter: Meter, width: float) -> Found:
    """The network of one width, and what it costs."""
    sizes = choice.sizes(width)
    return Found(width, sizes, meter.cost(sizes), choice.manifold.frame.dropped)


def narrowest_reaching(
    choice: Choice,
    meter: Meter,
    target: float,
    metric: Metric,
    score: Callable[[Mapping[str, int]], float],
    reporter: Reporter | None = None,
) -> tuple[Found, float]:
    """The narrowest network that is as good as a target and holds the budget.

    Found by bisection, as if networks were the better the wider they are.

    Args:
        choice: the networks.
        meter: with the budget, which may limit nothing.
        target: of the metric.
        metric: how values compare.
        score: the metric of the network of some sizes.
        reporter: is told of the progress.

    Returns:
        The network and its metric.

    Raises:
        NeumetaError: the widest network that the budget allows is worse.

    """
    reporter = reporter or Silent()
    widest = widest_within(choice, meter).width if meter.budget.limits else math.inf
    grid = [width for width in choice.grid() if width <= widest]
    scores: dict[int, float] = {}

    def falls_short(place: int) -> bool:
        if place not in scores:
            scores[place] = score(choice.sizes(grid[place]))
            reporter.advance(1, f"width {grid[place]:g}: {metric.show(scores[place])}")
        return not metric.reaches(scores[place], target)

    reporter.start(f"reach the {metric.name}", 2 + math.ceil(math.log2(len(grid))))
    last = len(grid) - 1
    if falls_short(last):
        within = " that the budget allows" if meter.budget.limits else ""
        raise NeumetaError(
            f"--target-accuracy {target:g}: the widest network{within} (width {grid[last]:g}) "
            f"has {metric.name} {metric.show(scores[last])}"
        )
    best = 0 if not falls_short(0) else _last(len(grid), falls_short) + 1
    reporter.finish()
    return found_at(choice, meter, grid[best]), scores[best]


def hold_file_size(path: Path, meter: Meter, write: Callable[[Meter, Path], float]) -> None:
    """Write a file that holds a budget of bytes, names and metadata included.

    Args:
        path: where to.
        meter: with that budget; one that knows what the format adds follows from it.
        write: chooses a network by a meter, writes it to a path, and gives the bytes that it was
            to take.

    Raises:
        NeumetaError: as ``write`` does, or no network is small enough.

    """

    def attempt(partial: Path) -> None:
        trial, most = meter, meter.budget.bytes
        assert most is not None
        while True:
            expected = write(trial, partial)
            taken = partial.stat().st_size
            if taken <= most:
                return
            more = taken - expected
            trial = Meter(trial.manifold, trial.budget, trial.scale, trial.overhead + more)

    write_atomically(path, attempt)


def _last(count: int, holds: Callable[[int], bool]) -> int:
    """The last place that holds, where the first one does and none does after one that does not."""
    low, high = 0, count  # low holds, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _impossible(meter: Meter, smallest: Mapping[str, int]) -> str:
    cost, limits = meter.cost(smallest), meter.budget.limits
    least = ", ".join(
        f"{OPTIONS[n]} {show_cost(n, cost[n], math.ceil)}" for n in limits if cost[n] > limits[n]
    )
    wanted = ", ".join(
        f"{OPTIONS[n]} {show_cost(n, limits[n])}" for n in limits if cost[n] > limits[n]
    )
    return f"{wanted}: no network is that small; the smallest needs {least}"


def show_cost(name: str, value: float, rounded: Callable[[float], int] = round) -> str:
    """A cost as a budget's option takes it."""
    if name == "seconds":
        return f"{1000 * value:.3g}ms"
    return f"{rounded(value)}" if value >= 1 else f"{value:g}"
