"""What a local search asks of the distances: potentials, near neighbours, greedy paths.

Arrays named ``reduced`` are (n + 1, n): distances less potentials, and the dummy's as row n.
"""

import numpy as np

from neumeta_cli.permute.compiling import compiled


def reduce_distances(distances: np.ndarray) -> np.ndarray:
    """Distances less potentials, (n + 1, n) in float32, in units of the mean; row n: the dummy."""
    n = len(distances)
    mean = float(distances.mean(dtype=np.float64)) * n / (n - 1) or 1.0
    potential = distances.sum(1, dtype=np.float64) / (n - 1) / mean - 0.5
    reduced = np.empty((n + 1, n), np.float32)
    np.divide(distances, mean, out=reduced[:n])
    reduced[:n] -= potential.astype(np.float32)[:, None]
    reduced[:n] -= potential.astype(np.float32)
    # The dummy's own potential makes its second nearest as near as others' nearest.
    np.fill_diagonal(reduced[:n], np.inf)
    dummy = -np.partition(potential, -2)[-2] - float(reduced[:n].min(1).mean())
    np.fill_diagonal(reduced[:n], 0)
    reduced[n] = -potential - dummy
    return reduced


@compiled()
def greedy_path(distances, start):  # type: ignore[no-untyped-def]
    """From ``start`` always on to the nearest channel that is left; (n,) int64."""
    n = distances.shape[0]
    order = np.empty(n, np.int64)
    left = np.arange(n)
    order[0] = start
    left[start] = n - 1
    for i in range(1, n):
        row = distances[order[i - 1]]
        best = 0
        for k in range(1, n - i):
            if row[left[k]] < row[left[best]]:
                best = k
        order[i] = left[best]
        left[best] = left[n - i - 1]
    return order


@compiled(inline="always")
def between(reduced, a, b):  # type: ignore[no-untyped-def]
    n = reduced.shape[1]
    return reduced[b, a] if b == n else reduced[a, b]


@compiled()
def tour_length(reduced, tour):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(tour)):
        total += np.float64(between(reduced, tour[i - 1], tour[i]))
    return total


@compiled()
def _insert(near, far, a, b, distance):  # type: ignore[no-untyped-def]
    """Put b into the sorted neighbours of a; the farthest falls out."""
    k = near.shape[1] - 1
    if distance >= far[a, k]:
        return
    while k > 0 and far[a, k - 1] > distance:
        far[a, k], near[a, k] = far[a, k - 1], near[a, k - 1]
        k -= 1
    far[a, k], near[a, k] = distance, b


@compiled()
def nearest_neighbours(reduced, count):  # type: ignore[no-untyped-def]
    """The nearest neighbours of each node and how far they are, (n + 1, count) both."""
    n = reduced.shape[1]
    near = np.zeros((n + 1, count), np.int32)
    far = np.full((n + 1, count), np.inf, np.float32)
    for a in range(n + 1):
        for b in range(n + 1):
            if a != b:
                _insert(near, far, a, b, between(reduced, a, b))
    return near, far


@compiled()
def union_of_tours(reduced, tours):  # type: ignore[no-untyped-def]
    """Each node's neighbours in any of the tours, as ``nearest_neighbours`` gives them."""
    size = tours.shape[1]
    near = np.zeros((size, 2 * len(tours)), np.int32)
    far = np.full(near.shape, np.inf, np.float32)
    for tour in tours:
        for i in range(size):
            a, b = tour[i - 1], tour[i]
            distance = between(reduced, a, b)
            for k in range(near.shape[1]):
                if far[a, k] == np.inf or near[a, k] == b:
                    break
            if far[a, k] == np.inf:
                _insert(near, far, a, b, distance)
                _insert(near, far, b, a, distance)
    return near, far
