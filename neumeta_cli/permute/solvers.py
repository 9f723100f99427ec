"""Solvers for the shortest Hamiltonian path, by name."""

import random as stdlib_random
import warnings
from collections.abc import Callable

import numpy as np

from neumeta_cli.permute.local_search import two_and_a_half_opt
from neumeta_cli.permute.objective import path_length

Solver = Callable[[np.ndarray, int], np.ndarray]  # (n, n) distances and a seed to an (n,) order

PYTHON_TSP_EXACT = 9  # up to this many channels python-tsp is asked for the exact answer


def identity(distances: np.ndarray, seed: int) -> np.ndarray:
    """The order of the checkpoint."""
    return np.arange(len(distances))


def random(distances: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(len(distances))


def greedy(distances: np.ndarray, seed: int) -> np.ndarray:
    """Nearest neighbour, from whichever start gives the shortest path."""
    n = len(distances)
    starts = range(n) if n <= 256 else np.random.default_rng(seed).choice(n, 32, replace=False)
    best, shortest = np.arange(n), np.inf
    for start in starts:
        order = np.empty(n, np.int64)
        order[0] = start
        free = np.ones(n, bool)
        free[start] = False
        for i in range(1, n):
            order[i] = np.where(free, distances[order[i - 1]], np.inf).argmin()
            free[order[i]] = False
        length = path_length(distances, order)
        if length < shortest:
            best, shortest = order, length
    return best


def two_and_a_half(distances: np.ndarray, seed: int) -> np.ndarray:
    """2.5-opt from the nearest-neighbour path; never longer than the checkpoint's own order."""
    order = two_and_a_half_opt(distances, greedy(distances, seed), seed)
    stored = np.arange(len(distances))
    return min(order, stored, key=lambda o: path_length(distances, o))


def python_tsp(distances: np.ndarray, seed: int) -> np.ndarray:
    """python-tsp: dynamic programming for tiny cliques, its 2-opt local search otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from python_tsp.exact import solve_tsp_dynamic_programming
        from python_tsp.heuristics import solve_tsp_local_search

    n = len(distances)
    with_dummy = np.zeros((n + 1, n + 1))
    with_dummy[1:, 1:] = distances
    if n <= PYTHON_TSP_EXACT:
        tour, _ = solve_tsp_dynamic_programming(with_dummy)
    else:
        start = [0, *(greedy(distances, seed) + 1).tolist()]
        state = stdlib_random.getstate()  # python-tsp shuffles with the global generator
        stdlib_random.seed(seed)
        tour, _ = solve_tsp_local_search(with_dummy, x0=start, perturbation_scheme="two_opt")
        stdlib_random.setstate(state)
    at = tour.index(0)
    return np.array(tour[at + 1 :] + tour[:at]) - 1


SOLVERS: dict[str, Solver] = {
    "2.5-opt": two_and_a_half,
    "python-tsp": python_tsp,
    "greedy": greedy,
    "identity": identity,
    "random": random,
}
