"""A width of its own for every clique, by how much the network loses where it gets narrower."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from neumeta_cli.choices import SEARCH_SAMPLES
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export.choose.budget import Found, Meter
from neumeta_cli.export.choose.wish import Choice, mean_width
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.tasks import Task

STEPS = (1.4, 1.2, 1.1, 1.05)  # by which a clique is made wider or narrower, in turn
MOST_SCORED = 1000  # images
BATCH = 500
PROJECTIONS = 6  # rescalings until a budget is spent
NEARLY = 0.995  # of a budget is all of it
BEYOND = 1.01  # a little more than it takes, to find both sides of a budget

Widths = dict[str, float]  # of the cliques that no wish names
Move = tuple[tuple[str, ...], float]  # a group of cliques, and the factor of their width


@dataclass(frozen=True)
class Scored:
    """A network on images that took no part in the search: mean loss, and the task's metrics."""

    found: Found
    loss: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Searched:
    """What a search found beside the common width that it began with; ``best`` is one of them."""

    uniform: Scored
    allocated: Scored
    samples: int
    images: int

    @property
    def best(self) -> Scored:
        """The searched network if its loss is lower on images that the search has not seen."""
        return self.allocated if self.allocated.loss < self.uniform.loss else self.uniform


def search_widths(
    choice: Choice,
    meter: Meter,
    uniform: Found,
    task: Task,
    draws: int | None = None,
    seed: int = 0,
    samples: int = SEARCH_SAMPLES,
    reporter: Reporter | None = None,
) -> Searched:
    """Find widths for each clique that lose less than one width for all, at the same budget.

    Half of the test images score networks in the search, the other half judges what it found.

    Args:
        choice: the networks.
        meter: with the budget.
        uniform: the widest network of one width that holds it.
        task: the test images.
        draws: K, the manifold's own if None.
        seed: of the halves and of the order of trials.
        samples: networks that are sampled and scored.
        reporter: is told of the progress.

    Raises:
        NeumetaError: there are fewer than two test images.

    """
    reporter = reporter or Silent()
    scoring, judging = halves(task, seed)

    def network(sizes: Mapping[str, int]) -> nn.Module:
        return choice.manifold.sample(sizes=sizes, samples=draws)

    reporter.start("search widths", samples)
    climb = _Climb(choice, meter, lambda sizes: mean_loss(network(sizes), scoring), seed)
    found = climb.run(uniform, samples, reporter)
    reporter.finish()
    scored = []
    for each in (uniform, found):
        model = network(each.sizes)
        scored.append(Scored(each, mean_loss(model, judging), judging.measure(model)))
    return Searched(scored[0], scored[1], climb.scored, len(judging.test))


def halves(task: Task, seed: int) -> tuple[Task, Task]:
    """The task with one and with the other half of its test images, drawn at random."""
    count = len(task.test)
    if count < 2:
        raise NeumetaError("a search or a target needs two test images at least")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    first, second = order[: count // 2][:MOST_SCORED], order[count // 2 :]
    pair = (replace(task, test=task.test.chosen(index)) for index in (first, second))
    return next(pair), next(pair)


@torch.no_grad()
def mean_loss(model: nn.Module, task: Task) -> float:
    """The task's loss, averaged over its test images."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    total = 0.0
    for x, targets in task.batches(task.test, task.in_order(BATCH), device):
        total += float(task.loss(model(x.to(device)), targets.to(device))) * len(x)
    return total / len(task.test)


class _Climb:
    """Moves that change one clique's width, all others rescaled so that the budget stays spent.

    In each round every clique is tried wider and narrower: its sensitivity at equal cost. Those
    that help are then tried together, the best ones first, and the best network is kept. Where
    none helps, steps get smaller.
    """

    def __init__(
        self,
        choice: Choice,
        meter: Meter,
        score: Callable[[Mapping[str, int]], float],
        seed: int,
    ) -> None:
        self.choice, self.meter, self.score = choice, meter, score
        self.random = random.Random(seed)
        self.known: dict[tuple[int, ...], float] = {}
        self.least = {name: 0.5 / n for name, n in choice.full.items()}

    @property
    def scored(self) -> int:
        """How many networks were sampled and scored."""
        return len(self.known)

    def run(self, start: Found, samples: int, reporter: Reporter) -> Found:
        """The best of so many networks, the one to begin with among them."""
        widths = {name: start.width for group in self.choice.free for name in group}
        best, steps = self._loss(widths, reporter), list(STEPS)
        while steps and self.scored < samples:
            trials = self._round(widths, best, steps[0], samples, reporter)
            better = min(trials, key=lambda trial: trial[0], default=(best, widths))
            if better[0] < best:
                best, widths = better
            else:
                steps.pop(0)
        sizes = self.choice.sizes(widths)
        return Found(mean_width(self.choice.manifold, sizes), sizes, self.meter.cost(sizes))

    def _round(
        self, widths: Widths, best: float, step: float, samples: int, reporter: Reporter
    ) -> list[tuple[float, Widths]]:
        moves: list[Move] = [
            (tuple(group), factor) for group in self.choice.free for factor in (step, 1 / step)
        ]
        self.random.shuffle(moves)
        trials: list[tuple[float, Widths]] = []
        helpful: dict[tuple[str, ...], tuple[float, Move]] = {}

        def attempt(chosen: Sequence[Move]) -> float:
            changed = self._spent(_moved(widths, chosen))
            if changed is None or self.scored >= samples:
                return best
            trials.append((self._loss(changed, reporter), changed))
            return trials[-1][0]

        for move in moves:
            loss = attempt([move])
            if loss < min(best, helpful.get(move[0], (best,))[0]):
                helpful[move[0]] = (loss, move)
        ranked = [move for _, move in sorted(helpful.values())]
        count = 2
        while count < 2 * len(ranked):
            attempt(ranked[:count])
            count *= 2
        return trials

    def _loss(self, widths: Widths, reporter: Reporter) -> float:
        sizes = self.choice.sizes(widths)
        key = tuple(sizes.values())
        if key not in self.known:
            self.known[key] = self.score(sizes)
            reporter.advance(1, f"loss {min(self.known.values()):.4f}")
        return self.known[key]

    def _spent(self, widths: Widths) -> Widths | None:
        """The same proportions at the whole budget, none above 1; None if it cannot be held."""
        fitting, low, high, scale = None, 0.0, 0.0, 1.0
        for _ in range(PROJECTIONS):
            scaled = {n: min(1.0, max(self.least[n], scale * w)) for n, w in widths.items()}
            share = self.meter.share(self.choice.sizes(scaled))
            if share <= 1:
                fitting, low = scaled, scale
            else:
                high = scale
            if NEARLY <= share <= 1:
                break
            # Costs grow about as the square of widths; once both sides are known, halve.
            beyond = 1 / BEYOND if share > 1 else BEYOND
            scale = math.sqrt(low * high) if low and high else scale * share**-0.5 * beyond
        return fitting


def _moved(widths: Widths, moves: Sequence[Move]) -> Widths:
    factors = {name: factor for group, factor in moves for name in group}
    return {name: width * factors.get(name, 1.0) for name, width in widths.items()}
