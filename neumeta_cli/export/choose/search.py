"""A width of its own for every clique, and a depth, by how much the network loses with less."""

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
DEPTH: tuple[str, ...] = ()  # stands for a group in a move that changes depth, by one or minus one


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
    depths: Sequence[tuple[str, ...]] = (),
) -> Searched:
    """Find widths for each clique that lose less than one width for all, at the same budget.

    Where several depths are given, a block fewer or more is a move like a clique that gets narrower
    or wider.

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
        depths: the sets of blocks that a network may lack, ascending, that of ``choice`` among
            them; by themselves, the networks keep the blocks they have.

    Raises:
        NeumetaError: there are fewer than two test images.

    """
    reporter = reporter or Silent()
    scoring, judging = halves(task, seed)

    def network(found: Found) -> nn.Module:
        manifold = choice.manifold.without(found.dropped)
        return manifold.sample(sizes=found.sizes, samples=draws)

    reporter.start("search widths and depth" if depths else "search widths", samples)
    places = [Place(choice, meter).at(blocks) for blocks in depths or (uniform.dropped,)]
    climb = Climb(places, lambda found: mean_loss(network(found), scoring), seed)
    found = climb.run(uniform, samples, reporter)
    reporter.finish()
    scored = []
    for each in (uniform, found):
        model = network(each)
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


@dataclass(frozen=True)
class Place:
    """A depth: the networks that lack some blocks, and what they cost."""

    choice: Choice
    meter: Meter

    def at(self, blocks: Sequence[str]) -> "Place":
        manifold = self.choice.manifold
        if tuple(blocks) == manifold.frame.dropped:
            return self
        short, meter = manifold.without(blocks), self.meter
        own = Meter(short, meter.budget, meter.scale, meter.overhead)
        return Place(Choice(short, self.choice.wish), own)

    def found(self, widths: Widths) -> Found:
        sizes, manifold = self.choice.sizes(widths), self.choice.manifold
        width = mean_width(manifold, sizes)
        return Found(width, sizes, self.meter.cost(sizes), manifold.frame.dropped)

    @property
    def free(self) -> list[tuple[str, ...]]:
        """The groups of cliques that a network of this depth has any weights of."""
        frame = self.choice.manifold.frame
        there = {c.name for c in frame.cliques if any(frame.has(m.weight) for m in c.members)}
        return [tuple(group) for group in self.choice.free if there.intersection(group)]


@dataclass(frozen=True)
class _State:
    """Where a search is: at which of the depths, and the widths."""

    depth: int
    widths: Widths


class Climb:
    """Moves that change one clique's width or the depth, all others rescaled to spend the budget.

    In each round every clique is tried wider and narrower, and the network with a block fewer and
    more: the sensitivity of each at equal cost. Moves that help are then tried together, the best
    ones first, and the best network is kept. Where none helps, steps get smaller.
    """

    def __init__(self, places: Sequence[Place], score: Callable[[Found], float], seed: int) -> None:
        self.places, self.score = places, score
        self.random = random.Random(seed)
        self.known: dict[tuple[int, ...], float] = {}
        self.least = {name: 0.5 / n for name, n in places[0].choice.full.items()}

    @property
    def scored(self) -> int:
        """How many networks were sampled and scored."""
        return len(self.known)

    def run(self, start: Found, samples: int, reporter: Reporter) -> Found:
        """The best of so many networks, the one to begin with among them."""
        dropped = [place.choice.manifold.frame.dropped for place in self.places]
        names = [name for group in self.places[0].choice.free for name in group]
        state = _State(dropped.index(start.dropped), dict.fromkeys(names, start.width))
        best, steps = self._loss(state, reporter), list(STEPS)
        while steps and self.scored < samples:
            trials = self._round(state, best, steps[0], samples, reporter)
            better = min(trials, key=lambda trial: trial[0], default=(best, state))
            if better[0] < best:
                best, state = better
            else:
                steps.pop(0)
        return self.places[state.depth].found(state.widths)

    def _round(
        self, state: _State, best: float, step: float, samples: int, reporter: Reporter
    ) -> list[tuple[float, _State]]:
        moves: list[Move] = [
            (group, factor)
            for group in self.places[state.depth].free
            for factor in (step, 1 / step)
        ]
        self.random.shuffle(moves)
        nearby = (state.depth - 1, state.depth + 1)
        moves[:0] = [(DEPTH, to - state.depth) for to in nearby if 0 <= to < len(self.places)]
        trials: list[tuple[float, _State]] = []
        helpful: dict[tuple[str, ...], tuple[float, Move]] = {}

        def attempt(chosen: Sequence[Move]) -> float:
            changed = self._spent(_moved(state, chosen))
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

    def _loss(self, state: _State, reporter: Reporter) -> float:
        found = self.places[state.depth].found(state.widths)
        key = (state.depth, *found.sizes.values())
        if key not in self.known:
            self.known[key] = self.score(found)
            reporter.advance(1, f"loss {min(self.known.values()):.4f}")
        return self.known[key]

    def _spent(self, state: _State) -> _State | None:
        """The same proportions at the whole budget, none above 1; None if it cannot be held."""
        place, widths = self.places[state.depth], state.widths
        fitting, low, high, scale = None, 0.0, 0.0, 1.0
        for _ in range(PROJECTIONS):
            scaled = {n: min(1.0, max(self.least[n], scale * w)) for n, w in widths.items()}
            share = place.meter.share(place.choice.sizes(scaled))
            if share <= 1:
                fitting, low = _State(state.depth, scaled), scale
            else:
                high = scale
            if NEARLY <= share <= 1:
                break
            # Costs grow about as the square of widths; once both sides are known, halve.
            beyond = 1 / BEYOND if share > 1 else BEYOND
            scale = math.sqrt(low * high) if low and high else scale * share**-0.5 * beyond
        return fitting


def _moved(state: _State, moves: Sequence[Move]) -> _State:
    factors = {name: factor for group, factor in moves for name in group}
    widths = {name: width * factors.get(name, 1.0) for name, width in state.widths.items()}
    return _State(state.depth + sum(int(by) for group, by in moves if group == DEPTH), widths)
