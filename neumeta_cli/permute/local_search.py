"""2.5-opt for shortest Hamiltonian paths, compiled (Bentley, 1992).

A dummy node at distance 0 from every other turns the path into a tour; it is the number ``n`` and
has no row in the distance matrix. The local search tries 2-opt moves and the insertion of short
segments (or-opt, of which 2.5-opt's node insertion is the shortest) over lists of near neighbours
with don't-look bits, and escapes local optima by local double bridges: the tour is kept when it
is no longer than before.
"""

import numpy as np
from numba import njit

NEIGHBOURS = 10
SEGMENT = 3  # the longest segment that or-opt moves
BRIDGE = 30  # the longest piece that a double bridge exchanges
EPSILON = 1e-9


def two_and_a_half_opt(
    distances: np.ndarray, start: np.ndarray, seed: int, rounds_per_channel: int = 30
) -> np.ndarray:
    """Shorten a Hamiltonian path.

    Args:
        distances: (n, n), symmetric, not negative.
        start: (n,) the order to begin with.
        seed: of the double bridges; the same seed gives the same order.
        rounds_per_channel: double bridges tried per channel.

    Returns:
        (n,) an order whose path is no longer than that of ``start``.

    """
    n = len(start)
    if n < 4:
        return start
    near = np.argsort(distances + np.diag(np.full(n, np.inf)), axis=1)[:, : min(NEIGHBOURS, n - 1)]
    neighbours = np.full((n + 1, near.shape[1] + 1), n, np.int64)
    neighbours[:n, 1:] = near  # the dummy comes first: nothing is nearer
    tour = np.append(start, n).astype(np.int64)
    tour = _search(np.ascontiguousarray(distances), tour, neighbours, seed, rounds_per_channel * n)
    at = int(np.flatnonzero(tour == n)[0])
    return np.concatenate([tour[at + 1 :], tour[:at]])


@njit(cache=True)
def _between(distances, a, b):  # type: ignore[no-untyped-def]
    n = distances.shape[0]
    return 0.0 if a == n or b == n else distances[a, b]


@njit(cache=True)
def _reverse(tour, pos, i, j):  # type: ignore[no-untyped-def]
    """Reverse the stretch from position i to j, round the end if need be, by its shorter side."""
    size = len(tour)
    inside = (j - i + size) % size + 1
    if inside * 2 > size:
        i, j = (j + 1) % size, (i - 1 + size) % size
        inside = size - inside
    for _ in range(inside // 2):
        a, b = tour[i], tour[j]
        tour[i], tour[j] = b, a
        pos[b], pos[a] = i, j
        i = i + 1 if i + 1 < size else 0
        j = j - 1 if j > 0 else size - 1


@njit(cache=True)
def _two_opt(distances, tour, pos, neighbours, a, touched):  # type: ignore[no-untyped-def]
    """The first improving 2-opt move at node a; gives the gain, 0 if there is none."""
    size = len(tour)
    for step in (1, -1):
        b = tour[(pos[a] + step + size) % size]
        d_ab = _between(distances, a, b)
        for c in neighbours[a]:
            if c == a:
                continue
            gain = d_ab - _between(distances, a, c)
            if gain <= EPSILON:
                break
            d = tour[(pos[c] + step + size) % size]
            gain += _between(distances, c, d) - _between(distances, b, d)
            if gain > EPSILON:
                if step == 1:
                    _reverse(tour, pos, pos[b], pos[c])
                else:
                    _reverse(tour, pos, pos[c], pos[b])
                touched[0], touched[1], touched[2], touched[3] = a, b, c, d
                return gain
    return 0.0


@njit(cache=True)
def _or_opt(distances, tour, pos, neighbours, a, touched):  # type: ignore[no-untyped-def]
    """Move a segment that ends in a to stand beside one of a's neighbours; gives the gain."""
    size = len(tour)
    for length in range(1, SEGMENT + 1):
        if size < length + 3:
            break
        for step in (1, -1):
            # The segment runs from a against `step`; p and q are the nodes around it.
            i = pos[a]
            e = tour[(i - step * (length - 1) + size) % size]
            q = tour[(i + step + size) % size]
            p = tour[(i - step * length + 2 * size) % size]
            freed = _between(distances, p, e) + _between(distances, a, q)
            freed -= _between(distances, p, q)
            if freed <= EPSILON:
                continue
            for c in neighbours[a]:
                near = _between(distances, a, c)
                if freed - near <= EPSILON:
                    break
                away = (step * (i - pos[c]) + size) % size
                if c == a or away < length:
                    continue
                for side in (1, -1):
                    d = tour[(pos[c] + side + size) % size]
                    if (step * (i - pos[d]) + size) % size < length:
                        continue  # the gap beside c is the segment itself
                    gain = freed - near - _between(distances, e, d) + _between(distances, c, d)
                    if gain > EPSILON:
                        _move(tour, pos, i, step, length, c, d)
                        touched[0], touched[1], touched[2], touched[3] = p, q, c, d
                        touched[4], touched[5] = a, e
                        return gain
    return 0.0


@njit(cache=True)
def _move(tour, pos, i, step, length, c, d):  # type: ignore[no-untyped-def]
    """Take the segment that ends at position i out and put it between c and d, its end at c."""
    size = len(tour)
    segment = np.empty(length, np.int64)
    for k in range(length):
        segment[k] = tour[(i - step * k + size) % size]
    # Walk from the gap towards the edge (c, d), whichever way is shorter, shifting nodes over.
    first, last = (c, d) if tour[(pos[c] + 1) % size] == d else (d, c)  # first precedes last
    low = i - length + 1 if step == 1 else i
    low = (low + size) % size
    high = (low + length - 1) % size
    forward = (pos[first] - high + size) % size
    backward = (low - pos[last] + size) % size
    if forward <= backward:
        write = low
        for k in range(forward):
            node = tour[(high + 1 + k) % size]
            tour[write] = node
            pos[node] = write
            write = (write + 1) % size
    else:
        write = high
        for k in range(backward):
            node = tour[(low - 1 - k + 2 * size) % size]
            tour[write] = node
            pos[node] = write
            write = (write - 1 + size) % size
        write = (write - length + 1 + size) % size
    # Now `write` is the first free position between first and last.
    for k in range(length):
        node = segment[k] if first == c else segment[length - 1 - k]
        tour[write] = node
        pos[node] = write
        write = (write + 1) % size


@njit(cache=True)
def _descend(distances, tour, pos, neighbours, stack, top, queued):  # type: ignore[no-untyped-def]
    """Improve at the nodes on the stack until nothing helps; gives the total gain."""
    touched = np.empty(6, np.int64)
    total = 0.0
    while top > 0:
        top -= 1
        a = stack[top]
        queued[a] = False
        while True:
            touched[:] = a
            gain = _two_opt(distances, tour, pos, neighbours, a, touched)
            if gain == 0.0:
                gain = _or_opt(distances, tour, pos, neighbours, a, touched)
            if gain == 0.0:
                break
            total += gain
            for node in touched:
                if node != a and not queued[node]:
                    queued[node] = True
                    stack[top] = node
                    top += 1
    return total


@njit(cache=True)
def _search(distances, tour, neighbours, seed, rounds):  # type: ignore[no-untyped-def]
    np.random.seed(seed)
    size = len(tour)
    pos = np.empty(size, np.int64)
    for i in range(size):
        pos[tour[i]] = i
    stack = tour.copy()
    queued = np.ones(size, np.bool_)
    _descend(distances, tour, pos, neighbours, stack, size, queued)
    if size < 8:
        return tour
    kept = tour.copy()
    piece = np.empty(2 * BRIDGE, np.int64)
    longest = min(BRIDGE, (size - 2) // 2)
    for _ in range(rounds):
        # A local double bridge: two neighbouring pieces change places.
        one, two = np.random.randint(1, longest + 1), np.random.randint(1, longest + 1)
        start = np.random.randint(0, size)
        before = tour[(start - 1 + size) % size]
        after = tour[(start + one + two) % size]
        for k in range(one + two):
            piece[k] = tour[(start + (k + one) % (one + two)) % size]
        cost = 0.0
        for i in (0, one, one + two):
            u, v = tour[(start + i - 1 + size) % size], tour[(start + i) % size]
            cost -= _between(distances, u, v)
        for k in range(one + two):
            tour[(start + k) % size] = piece[k]
            pos[piece[k]] = (start + k) % size
        for i in (0, two, one + two):
            u, v = tour[(start + i - 1 + size) % size], tour[(start + i) % size]
            cost += _between(distances, u, v)
        top = 0
        for node in (before, piece[0], piece[two - 1], piece[two], piece[one + two - 1], after):
            if not queued[node]:
                queued[node] = True
                stack[top] = node
                top += 1
        cost -= _descend(distances, tour, pos, neighbours, stack, top, queued)
        if cost <= 0.0:
            kept[:] = tour
        else:
            tour[:] = kept
            for i in range(size):
                pos[tour[i]] = i
    return kept
