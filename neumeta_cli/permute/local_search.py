"""2.5-opt for shortest Hamiltonian paths, compiled, deepened and merged.

A dummy node at distance 0 from every other turns the path into a tour (Bentley, 1992). It is the
number ``n``; only a row of potentials stands for it.

- *Moves.* From a node the search removes a tour edge, adds one to a near neighbour, removes the
  next, and so on while the sum stays a gain (Lin & Kernighan, 1973). Every step is one reversal
  of the path's end: one is a 2-opt move, three can be an or-opt insertion, of which 2.5-opt's node
  insertion is the shortest; more escape the optima of both. Steps are tried on a list of
  stretches of the tour, and the tour itself changes only when a chain has gained.
- *Potentials.* Every node of a tour has two edges, so that d(i,j) − p(i) − p(j) has the same best
  tour (Held & Karp, 1970). A channel of large weights is far from all others; taking each row's
  mean off shows which neighbours are near for their size.
- *Merging.* Descents from several greedy paths agree on most edges. The best of them goes on over
  the edges of all, few for each node (tour merging: Applegate, Cook & Rohe, 2003), and what comes
  of several such groups is merged once more. *Kicks* then exchange two neighbouring stretches;
  the tour is kept if it came out no longer.
"""

import time

import numpy as np

from neumeta_cli.permute.compiling import compiled
from neumeta_cli.permute.neighbours import (
    between,
    greedy_path,
    nearest_neighbours,
    reduce_distances,
    tour_length,
    union_of_tours,
)

NEIGHBOURS = 7
DESCENT = (5, 3, 2, 1, 1)  # neighbours tried at each step of a chain
MERGE = (3, 3, 3, 3, 2, 2, 2, 2)
GROUPS = 6
STARTS = 8  # greedy paths in each group
STRETCH = 30  # the longest stretch that a kick moves
KICKS = 5  # for each channel, of the last merger
SMALL = 160  # channels up to which kicks go on over all near neighbours,
SMALL_KICKS = 1000  # so often
CHUNK = 256  # kicks between two looks at the clock
LOG = 100_000  # reversals of one kick that can be undone
EPSILON = 1e-6  # gains below are rounding, in units of the mean distance


def two_and_a_half_opt(
    distances: np.ndarray, seed: int, time_limit: float | None = None
) -> np.ndarray:
    """Find a short Hamiltonian path.

    Args:
        distances: (n, n), symmetric, not negative.
        seed: the same seed gives the same order, unless the time limit cuts it short.
        time_limit: seconds after which nothing more is tried.

    Returns:
        (n,) an order.

    """
    deadline = np.inf if time_limit is None else time.monotonic() + time_limit
    n = len(distances)
    if n < 4:
        return _of_three(distances)
    reduced = reduce_distances(distances)
    near, far = nearest_neighbours(reduced, min(NEIGHBOURS, n))
    starts = np.random.default_rng(seed).permutation(n)
    merged: list[_Search] = []
    for group in range(min(GROUPS, -(-n // STARTS))):
        found = []
        for start in starts[group * STARTS : (group + 1) * STARTS]:
            tour = np.append(greedy_path(reduced[:n], start), n).astype(np.int32)
            found.append(_Search(reduced, tour, near, far, DESCENT))
            found[-1].descend()
            if time.monotonic() > deadline:
                break
        merged.append(_merge(reduced, found))
        merged[-1].kick(n // 10, seed, deadline)
        if time.monotonic() > deadline:
            break
    last = _merge(reduced, merged)
    last.kick(KICKS * n, seed, deadline)
    if n <= SMALL:  # too few channels for many different paths
        last = _Search(reduced, last.tour, near, far, MERGE)
        last.kick(SMALL_KICKS, seed, deadline)
    at = int(np.flatnonzero(last.tour == n)[0])
    return np.concatenate([last.tour[at + 1 :], last.tour[:at]]).astype(np.int64)


def _merge(reduced: np.ndarray, searches: list["_Search"]) -> "_Search":
    """Go on from the shortest tour over the edges of all."""
    best = min(searches, key=lambda search: search.length())
    near, far = union_of_tours(reduced, np.stack([search.tour for search in searches]))
    merged = _Search(reduced, best.tour, near, far, MERGE)
    merged.descend()
    return merged


class _Search:
    """A tour and what the compiled functions need to improve it in place."""

    def __init__(
        self,
        reduced: np.ndarray,
        tour: np.ndarray,
        near: np.ndarray,
        far: np.ndarray,
        breadth: tuple[int, ...],
    ) -> None:
        size, depth = len(tour), len(breadth)
        self.tour = tour.copy()
        position = np.empty(size, np.int32)
        position[tour] = np.arange(size)
        self.graph = (reduced, self.tour, position, near, far)
        self.chain = (
            np.array(breadth),
            np.empty((depth + 1, 2 * depth + 2, 2), np.int32),  # stretches at each level
            np.empty((depth, 3), np.int32),  # near, new end, old end at each level
            np.empty((depth + 1, 4), np.int32),  # stretches, end, neighbours looked at and tried
            np.empty(depth + 1),  # gained, in float64 so that no chain of rounding gains for ever
        )
        self.queue = (np.empty(size, np.int32), np.zeros(size, np.bool_))

    def length(self) -> float:
        return float(tour_length(self.graph[0], self.tour))

    def descend(self) -> None:
        """Improve until no chain gains."""
        stack, queued = self.queue
        stack[:] = self.tour[::-1]
        queued[:] = True
        _descend(self.graph, self.chain, self.queue, len(stack), np.empty((0, 2), np.int32), 0)

    def kick(self, times: int, seed: int, deadline: float) -> None:
        """Kick and repair so often, or until the deadline."""
        if len(self.tour) < 8:
            return
        log = np.empty((LOG, 2), np.int32)
        for chunk in range(0, times, CHUNK):
            if time.monotonic() > deadline:
                break
            _kick(self.graph, self.chain, self.queue, log, min(CHUNK, times - chunk), seed + chunk)


def _of_three(distances: np.ndarray) -> np.ndarray:
    """The best order of up to three channels: the longest side of a triangle is left out."""
    n = len(distances)
    if n < 3:
        return np.arange(n)
    middle = int(distances.sum(1).argmin())
    one, two = (i for i in range(3) if i != middle)
    return np.array([one, middle, two])


@compiled(inline="always")
def _next(tour, position, a, step):  # type: ignore[no-untyped-def]
    i = position[a] + step
    if i == len(tour):
        i = 0
    return tour[i]


@compiled()
def _reverse(tour, position, i, j):  # type: ignore[no-untyped-def]
    """Reverse the stretch from place i to j, round the end if need be, by its shorter side."""
    size = len(tour)
    inside = j - i + 1 if j >= i else j - i + 1 + size
    if inside * 2 > size:
        i, j = j + 1, i - 1
        i = 0 if i == size else i
        j = size - 1 if j < 0 else j
        inside = size - inside
    for _ in range(inside // 2):
        a, b = tour[i], tour[j]
        tour[i], tour[j] = b, a
        position[b], position[a] = i, j
        i = i + 1 if i + 1 < size else 0
        j = j - 1 if j > 0 else size - 1


@compiled()
def _turn(tour, position, a, b, step, log, logged):  # type: ignore[no-untyped-def]
    """Reverse the stretch that runs from node a to node b in this direction, and log it."""
    if a == b:
        return logged
    i, j = (position[a], position[b]) if step == 1 else (position[b], position[a])
    if logged < len(log):
        log[logged, 0], log[logged, 1] = i, j
    _reverse(tour, position, i, j)
    return logged + 1


@compiled()
def _chain(graph, chain, first, step):  # type: ignore[no-untyped-def]
    """Look for a chain of steps that shortens the tour, beside the edge from ``first``.

    Without that edge the tour is a path that ends in ``first``'s neighbour in direction ``step``.
    A step joins the end to a near node, takes away the edge after that node and so makes the next
    node the new end. ``stretches[level]`` is the path as stretches of the tour, counted in places
    from ``first``. Depth first, a few neighbours at each level.

    Returns:
        How many steps there are in ``chain`` and what they gain, (0, 0) if nothing was found.

    """
    reduced, tour, position, near, far = graph
    breadth, stretches, steps, state, gain = chain
    count, end, looked, tried = state[:, 0], state[:, 1], state[:, 2], state[:, 3]
    size, deepest = len(tour), len(breadth)
    home = position[first]
    stretches[0, 0, 0], stretches[0, 0, 1] = 0, size - 1
    count[0], looked[0], tried[0] = 1, 0, 0
    end[0] = _next(tour, position, first, step)
    gain[0] = between(reduced, first, end[0])
    level = 0
    while level >= 0:
        k = looked[level]
        if k == near.shape[1] or tried[level] == breadth[level]:
            level -= 1
            continue
        looked[level] += 1
        old = end[level]
        node = near[old, k]
        left = gain[level] - far[old, k]
        if left <= EPSILON:
            level -= 1
            continue
        at = (home - position[node]) * step
        if at < 0:
            at += size
        here = stretches[level]
        s = 0
        while not (here[s, 0] <= at <= here[s, 1] or here[s, 1] <= at <= here[s, 0]):
            s += 1
        if at == here[s, 1]:
            continue  # the edge after it is the path's end, or one that the chain has added
        after = at + 1 if here[s, 1] > at else at - 1
        i = home - after * step
        new = tour[i - size if i >= size else i]
        if new == old:
            continue
        tried[level] += 1
        left += between(reduced, node, new)
        steps[level, 0], steps[level, 1], steps[level, 2] = node, new, old
        closed = left - between(reduced, first, new)
        if closed > EPSILON:
            return level + 1, closed
        if level + 1 == deepest:
            continue
        there = stretches[level + 1]
        for i in range(s):
            there[i, 0], there[i, 1] = here[i, 0], here[i, 1]
        there[s, 0], there[s, 1] = here[s, 0], at
        last = s + 1
        for i in range(count[level] - 1, s, -1):
            there[last, 0], there[last, 1] = here[i, 1], here[i, 0]
            last += 1
        there[last, 0], there[last, 1] = here[s, 1], after
        level += 1
        count[level] = last + 1
        looked[level] = tried[level] = 0
        end[level] = new
        gain[level] = left
    return 0, 0.0


@compiled()
def _descend(graph, chain, queue, top, log, logged):  # type: ignore[no-untyped-def]
    """Improve at the nodes of the queue until nothing helps; gives the gain and the log's length.

    With an empty log nothing can be undone.
    """
    tour, position = graph[1], graph[2]
    breadth, steps = chain[0], chain[2]
    stack, queued = queue
    total = 0.0
    while top > 0:
        top -= 1
        first = stack[top]
        queued[first] = False
        step = 1
        while len(log) == 0 or logged + len(breadth) <= len(log):
            depth, gain = _chain(graph, chain, first, step)
            if depth == 0:
                if step == -1:
                    break
                step = -1
                continue
            total += gain
            for level in range(depth):
                node, new, old = steps[level]
                toward = 1 if _next(tour, position, old, 1) == first else -1
                logged = _turn(tour, position, new, old, toward, log, logged)
                for touched in (node, new, old):
                    if touched != first and not queued[touched]:
                        queued[touched] = True
                        stack[top] = touched
                        top += 1
            step = 1
    return total, logged


@compiled()
def _kick(graph, chain, queue, log, times, seed):  # type: ignore[no-untyped-def]
    """Kick the tour and repair it; what comes out longer is undone."""
    np.random.seed(seed)  # each thread has a generator of its own
    reduced, tour, position = graph[0], graph[1], graph[2]
    stack, queued = queue
    size = len(tour)
    longest = min(STRETCH, (size - 2) // 3)
    for _ in range(times):
        start = np.random.randint(0, size)
        one, two = np.random.randint(1, longest + 1), np.random.randint(1, longest + 1)
        # before [a … b] [c … d] after
        before, a = tour[start], tour[(start + 1) % size]
        b, c = tour[(start + one) % size], tour[(start + one + 1) % size]
        d, after = tour[(start + one + two) % size], tour[(start + one + two + 1) % size]
        cost = (
            0.0 + between(reduced, before, c) + between(reduced, d, a) + between(reduced, b, after)
        )
        cost -= between(reduced, before, a) + between(reduced, b, c)
        cost -= between(reduced, d, after)
        logged = _turn(tour, position, a, d, 1, log, 0)
        toward = 1 if _next(tour, position, before, 1) == d else -1
        logged = _turn(tour, position, d, c, toward, log, logged)
        toward = 1 if _next(tour, position, before, 1) == c else -1
        logged = _turn(tour, position, b, a, toward, log, logged)
        top = 0
        for node in (after, d, c, b, a, before):
            if not queued[node]:
                queued[node] = True
                stack[top] = node
                top += 1
        gain, logged = _descend(graph, chain, queue, top, log, logged)
        if gain < cost:
            for k in range(logged - 1, -1, -1):
                _reverse(tour, position, log[k, 0], log[k, 1])
