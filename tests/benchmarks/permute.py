"""Path length and seconds of our solvers and others, on the same distances in the same run.

The others are fast_tsp, python-tsp and LKH (elkai; the yardstick), which take whole numbers and a
matrix with a row for the dummy (``pip install 'neumeta[bench]'``). Networks are torchvision's with
random weights, or a checkpoint. ``--growth`` shows how ours grows with channels and with values
per channel, on normal random weights.

    python tests/benchmarks/permute.py cifar10_resnet20.pth resnet50 --json permute.json
    python tests/benchmarks/permute.py vit_b_16 convnext_tiny --per-size 1 --skip lkh
    python tests/benchmarks/permute.py --growth
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from neumeta_cli.checkpoint import load_checkpoint, resolve
from neumeta_cli.permute import SOLVERS, channel_distances, find_orders, path_length
from neumeta_cli.permute.objective import channel_rows
from neumeta_cli.trace import Member, Trace, trace_model

Solve = Callable[[np.ndarray], np.ndarray]
PYTHON_TSP_MOST = {"local_search": 128, "lin_kernighan": 64}  # channels: minutes above
LKH = "lkh"


def whole(distances: np.ndarray, most: int) -> np.ndarray:
    """Distances as whole numbers with a dummy; what all have in common is left out first.

    A path has one edge fewer than channels, so that this changes no comparison and keeps digits.
    """
    n = len(distances)
    least = distances[np.triu_indices(n, 1)].min()
    spread = max(float(distances.max() - least), 1e-30)
    padded = np.zeros((n + 1, n + 1), np.int64)
    padded[:n, :n] = np.rint(np.maximum(distances - least, 0) * (most / spread))
    return padded


def opened(tour: list[int], dummy: int) -> np.ndarray:
    at = tour.index(dummy)
    return np.array(tour[at + 1 :] + tour[:at])


def fast_tsp(seconds: float) -> Solve:
    def solve(distances: np.ndarray) -> np.ndarray:
        import fast_tsp

        tour = fast_tsp.find_tour(whole(distances, 65_000), duration_seconds=seconds)
        return opened(list(tour), len(distances))

    return solve


def lkh(distances: np.ndarray) -> np.ndarray:
    import elkai

    tour = elkai.DistanceMatrix(whole(distances, 100_000).tolist()).solve_tsp(runs=1)
    return opened(tour[:-1], len(distances))


def ours(name: str) -> Solve:
    return lambda distances: SOLVERS[name](distances, 0, None)


COMPETITORS: dict[str, Solve] = {
    "2.5-opt": ours("2.5-opt"),
    "greedy": ours("greedy"),
    "identity": ours("identity"),
    "fast_tsp 0.1 s": fast_tsp(0.1),
    "fast_tsp 2 s": fast_tsp(2),
    "python-tsp:local_search": ours("python-tsp:local_search"),
    "python-tsp:lin_kernighan": ours("python-tsp:lin_kernighan"),
    LKH: lkh,
}


def open_network(name: str) -> tuple[dict[str, torch.Tensor], Trace, list[str]]:
    """Weights, trace and the names of parameters of a checkpoint or of random weights."""
    if Path(name).exists():
        checkpoint = load_checkpoint(Path(name))
        model, size = checkpoint.model, checkpoint.input_size
    else:
        torch.manual_seed(0)
        arch = resolve(f"torchvision/{name}")
        model, size = arch.build("cpu"), arch.default_input_size()
    return model.state_dict(), trace_model(model, size), [n for n, _ in model.named_parameters()]


def whole_network(name: str) -> dict[str, Any]:
    """Distances and solving of all cliques, as ``neumeta permute`` does them, and their cost."""
    tensors, trace, parameters = open_network(name)
    small = open_network("squeezenet1_1")
    find_orders(*small)  # compiles, or reads what was compiled
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    orders = find_orders(tensors, trace, parameters)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "network": name,
        "cliques": len(orders),
        "largest": max(c.channels for c in trace.cliques),
        "tv_before": sum(o.before for o in orders),
        "tv_after": sum(o.after for o in orders),
        "seconds": seconds,
        "mib_over_model": (peak - before) / 1024,
    }


def distances_of(name: str, per_size: int | None) -> list[tuple[str, np.ndarray, float, float]]:
    """Of every clique: name, distances, our seconds for them, those of a dense ``cdist``."""
    tensors, trace, parameters = open_network(name)
    seen: Counter[int] = Counter()
    channel_distances(
        [Member("w", 0, np.arange(8)[:, None])], np.arange(8), {"w": torch.rand(8, 8)}
    )
    found = []
    for clique in trace.cliques:
        members = [m for m in clique.members if m.weight in set(parameters)]
        rows = np.arange(clique.channels)  # of the first copy
        seen[clique.channels] += 1
        if not members or (per_size and seen[clique.channels] > per_size):
            continue
        start = time.perf_counter()
        distances = channel_distances(members, rows, tensors)
        middle = time.perf_counter()
        values = torch.cat(list(channel_rows(members, rows, tensors)), 1)
        torch.cdist(values[None], values[None], p=1)
        found.append((clique.name, distances, middle - start, time.perf_counter() - middle))
    return found


def compare(name: str, skipped: set[str], per_size: int | None) -> list[dict[str, Any]]:
    """One row a clique and solver."""
    rows = []
    for clique, distances, seconds, dense in distances_of(name, per_size):
        n = len(distances)
        for solver, solve in COMPETITORS.items():
            most = PYTHON_TSP_MOST.get(solver.rpartition(":")[2], np.inf)
            if solver in skipped or n > most or n < 5:
                continue
            start = time.perf_counter()
            order = solve(distances)
            rows.append(
                {
                    "network": name,
                    "clique": clique,
                    "channels": n,
                    "solver": solver,
                    "length": path_length(distances, order),
                    "seconds": time.perf_counter() - start,
                    "distance_seconds": seconds,
                    "cdist_seconds": dense,
                }
            )
            print(f"{name} {clique} {n} {solver}", file=sys.stderr, flush=True)
    return rows


def growth(channels: list[int], values: list[int], solve_to: int) -> list[dict[str, Any]]:
    """Seconds of distances and of solving; solving is one core's."""
    rows = []
    sizes = [(n, 1024) for n in channels] + [(1024, v) for v in values if v != 1024]
    for n, v in sizes:
        weight = torch.randn(n, v, generator=torch.Generator().manual_seed(0))
        member = Member("w", 0, np.arange(n)[:, None])
        start = time.perf_counter()
        distances = channel_distances([member], np.arange(n), {"w": weight})
        middle = time.perf_counter()
        order = SOLVERS["2.5-opt"](distances, 0, None) if n <= solve_to else np.arange(n)
        end = time.perf_counter()
        row = {"channels": n, "values": v, "distance_seconds": middle - start}
        row |= {"solve_seconds": end - middle if n <= solve_to else None}
        row |= {
            "shortened": 1 - path_length(distances, order) / path_length(distances, np.arange(n))
        }
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    return rows


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Sums over the cliques that a solver has taken, against LKH or else the best on the same."""
    for network in dict.fromkeys(r["network"] for r in rows):
        here = [r for r in rows if r["network"] == network]
        table = Table(title=network)
        for column in (
            "solver",
            "cliques",
            "channels",
            "length",
            "over best",
            "over LKH",
            "seconds",
        ):
            table.add_column(column, justify="left" if column == "solver" else "right")
        best: dict[str, float] = {}
        yard = {r["clique"]: r["length"] for r in here if r["solver"] == LKH}
        for r in here:
            best[r["clique"]] = min(best.get(r["clique"], np.inf), r["length"])
        for solver in dict.fromkeys(r["solver"] for r in here):
            mine = [r for r in here if r["solver"] == solver]
            length = sum(r["length"] for r in mine)
            both = [r for r in mine if r["clique"] in yard]
            against = sum(r["length"] for r in both) / (sum(yard[r["clique"]] for r in both) or 1)
            table.add_row(
                solver,
                str(len(mine)),
                f"{min(r['channels'] for r in mine)}–{max(r['channels'] for r in mine)}",
                f"{length:,.1f}",
                f"{length / sum(best[r['clique']] for r in mine) - 1:+.4%}",
                f"{against - 1:+.4%}" if both else "–",
                f"{sum(r['seconds'] for r in mine):.2f}",
            )
        console.print(table)
        first = {r["clique"]: r for r in here}.values()
        ours, dense = (sum(r[k] for r in first) for k in ("distance_seconds", "cdist_seconds"))
        console.print(f"distances: ours {ours:.2f} s on one core, torch.cdist {dense:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="*", help="checkpoints, or names of torchvision")
    parser.add_argument("--skip", action="append", default=[], choices=list(COMPETITORS))
    parser.add_argument("--per-size", type=int, help="take so many cliques of each size")
    parser.add_argument("--growth", action="store_true", help="256 to 8192 channels")
    parser.add_argument("--solve-to", type=int, default=8192, help="largest growth to be solved")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console = Console(width=100)
    result: dict[str, Any] = {"cores": torch.get_num_threads(), "networks": [], "solvers": []}
    for name in options.networks:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # its own peak of memory
            summary = pool.apply(whole_network, (name,))
        result["networks"].append(summary)
        console.print(
            f"{name}: {summary['cliques']} cliques, TV {summary['tv_before']:,.1f} -> "
            f"{summary['tv_after']:,.1f} in {summary['seconds']:.2f} s, "
            f"{summary['mib_over_model']:.0f} MiB over the model"
        )
        result["solvers"] += compare(name, set(options.skip), options.per_size)
    show(result["solvers"], console)
    if options.growth:
        steps = [256, 512, 1024, 2048, 4096, 8192]
        result["growth"] = growth(steps, [*steps, 16384], options.solve_to)
        table = Table("channels", "values", "distances (s)", "solving (s)", "shorter by")
        for row in result["growth"]:
            solving = "–" if row["solve_seconds"] is None else f"{row['solve_seconds']:.2f}"
            table.add_row(
                str(row["channels"]),
                str(row["values"]),
                f"{row['distance_seconds']:.3f}",
                solving,
                f"{row['shortened']:.2%}",
            )
        console.print(table)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
