"""Solvers for the shortest Hamiltonian path, by name."""

import random as stdlib_random
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from neumeta_cli.errors import NeumetaError
from neumeta_cli.permute.objective import path_length

Solver = Callable[[np.ndarray, int, float | None], np.ndarray]
"""(n, n) distances, a seed and a time limit in seconds, to an (n,) order."""

_GLOBAL_GENERATORS = threading.Lock()  # python-tsp draws from them, and cliques run side by side
RESOLUTION = 2**30
ROUNDING = 1e-6  # of float32 distances, relative: a shorter path is shorter by more


def identity(distances: np.ndarray, seed: int, time_limit: float | None) -> np.ndarray:
    """The order of the checkpoint."""
    return np.arange(len(distances))


def random(distances: np.ndarray, seed: int, time_limit: float | None) -> np.ndarray:
    """Any order, longer than the checkpoint's or not."""
    return np.random.default_rng(seed).permutation(len(distances))


def two_and_a_half(distances: np.ndarray, seed: int, time_limit: float | None) -> np.ndarray:
    """2.5-opt; its compiled code is imported when it is first used."""
    from neumeta_cli.permute.local_search import two_and_a_half_opt

    return two_and_a_half_opt(distances, seed, time_limit)


def greedy(distances: np.ndarray, seed: int, time_limit: float | None) -> np.ndarray:
    """Nearest neighbour, from whichever of 32 starts gives the shortest path."""
    from neumeta_cli.permute.neighbours import greedy_path

    n = len(distances)
    starts = range(n) if n <= 32 else np.random.default_rng(seed).choice(n, 32, replace=False)
    orders = [greedy_path(distances, start) for start in starts]
    return min(orders, key=lambda order: path_length(distances, order))


def python_tsp(function: str) -> Solver:
    """One of python-tsp's functions ``solve_tsp_…``; those that take a start get the greedy path.

    Only its local search and simulated annealing know a time limit.
    """

    def solve(distances: np.ndarray, seed: int, time_limit: float | None) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from python_tsp import exact, heuristics

        n = len(distances)
        if n < 4:
            return two_and_a_half(distances, seed, None)
        name = "dynamic_programming" if function == "auto" and n <= 9 else function
        name = "local_search" if name == "auto" else name
        if name in EXACT and n > EXACT[name]:
            raise NeumetaError(
                f"python-tsp's exact {name} takes up to {EXACT[name]} channels in reasonable "
                f"time, this clique has {n}; choose 2.5-opt or python-tsp"
            )
        # Whole numbers: with others its Lin-Kernighan can gain a rounding error for ever.
        with_dummy = np.zeros((n + 1, n + 1))
        with_dummy[1:, 1:] = np.rint(distances * (RESOLUTION / max(float(distances.max()), 1e-30)))
        options: dict[str, Any] = {}
        if name not in EXACT:
            options["x0"] = [0, *(greedy(distances, seed, None) + 1).tolist()]
        if name in ("local_search", "simulated_annealing"):
            options["max_processing_time"] = time_limit
        module = exact if name in EXACT else heuristics
        with _GLOBAL_GENERATORS:
            states = stdlib_random.getstate(), np.random.get_state()
            stdlib_random.seed(seed)
            np.random.seed(seed)
            try:
                tour, _ = getattr(module, f"solve_tsp_{name}")(with_dummy, **options)
            finally:
                stdlib_random.setstate(states[0])
                np.random.set_state(states[1])
        at = tour.index(0)
        return np.array(tour[at + 1 :] + tour[:at]) - 1

    return solve


def never_longer(solver: Solver) -> Solver:
    """The order of the checkpoint where the solver's is no shorter."""

    def solve(distances: np.ndarray, seed: int, time_limit: float | None) -> np.ndarray:
        order = solver(distances, seed, time_limit)
        stored = np.arange(len(distances))
        bound = path_length(distances, stored) * (1 - ROUNDING)
        return order if path_length(distances, order) < bound else stored

    return solve


EXACT = {"brute_force": 9, "dynamic_programming": 16, "branch_and_bound": 12}  # most channels

PYTHON_TSP = (
    "auto",
    "local_search",
    "simulated_annealing",
    "lin_kernighan",
    "record_to_record",
    *EXACT,
)

SOLVERS: dict[str, Solver] = {
    "2.5-opt": never_longer(two_and_a_half),
    "greedy": never_longer(greedy),
    "identity": identity,
    "random": random,
    **{
        "python-tsp" if name == "auto" else f"python-tsp:{name}": never_longer(python_tsp(name))
        for name in PYTHON_TSP
    },
}


def named(solver: str) -> Solver:
    """The solver of this name.

    Raises:
        NeumetaError: no such solver.

    """
    if solver not in SOLVERS:
        raise NeumetaError(f"unknown solver {solver!r}; choose from {', '.join(SOLVERS)}")
    return SOLVERS[solver]
