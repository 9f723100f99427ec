"""Accuracy over depth and width of fitted manifolds, beside what costs as much by width alone.

For each manifold and depth: the blocks that go (in the order of the fit, or as export chooses
them), the network with the changes by depth, the same without them (blocks dropped, norms
calibrated, nothing trained for it), and all blocks at the widest width with no more MACs.

    python tests/benchmarks/depth_accuracy.py runs/r56 --data cifar10 --json depth_accuracy.json
"""

import argparse
import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from neumeta_cli.data.settings import DataSection
from neumeta_cli.export.choose.budget import Budget, Meter, widest_within
from neumeta_cli.export.choose.depth import blocks_to_drop
from neumeta_cli.export.choose.wish import Choice, Wish
from neumeta_cli.manifold import Manifold, load_manifold
from neumeta_cli.tasks import Task, load_task

DEPTHS, WIDTHS = (1.0, 2 / 3, 1 / 3), (1.0, 0.75, 0.5)


def opened(path: Path, data: Path, device: str, limit: int | None = None) -> tuple[Manifold, Task]:
    """A fitted manifold, and its test images, or some of them drawn at random."""
    manifold = load_manifold(path, trust_code=True)
    fields = dict(manifold.provenance.recipe["data"]) | {"root": str(data)}
    network = manifold.sample(1.0, samples=0)
    task = load_task(DataSection(**fields), network, manifold.input_size, train=False)
    if limit is not None and limit < len(task.test):
        task = replace(task, test=task.test.take(limit, 0))
    return manifold.to(device), task


def unchanged_by_depth(manifold: Manifold) -> Manifold:
    """The same without what the fit changes as blocks go."""
    plain = copy.deepcopy(manifold)
    with torch.no_grad():
        for change in plain.inr.changes_by_depth():
            change.zero_()
    return plain


def measure(
    manifold: Manifold, task: Task, depths: Sequence[float], widths: Sequence[float]
) -> list[dict[str, Any]]:
    """A row for each depth and width."""
    runs, plain, rows = manifold.frame.runs, unchanged_by_depth(manifold), []
    for depth in depths:
        counts = {run.name: run.count(depth) for run in runs}
        gone = blocks_to_drop(manifold, counts)
        for width in widths:
            short = manifold.without(gone)
            cost = short.frame.cost(short.frame.sizes(width))
            row: dict[str, Any] = {"depth": round(depth, 4), "width": width, "dropped": gone}
            row |= {"macs": cost.macs, "parameters": cost.parameters}
            row["accuracy"] = task.evaluate(short.sample(width))
            if gone:
                row["untrained"] = task.evaluate(plain.without(gone).sample(width))
                choice, budget = Choice(manifold, Wish(None, (), (), 1)), Budget(macs=cost.macs)
                found = widest_within(choice, Meter(manifold, budget, 1.0))
                row["equal_width"] = round(found.width, 4)
                row["by_width"] = task.evaluate(manifold.sample(sizes=found.sizes))
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def shown(name: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        "depth", "width", "million MACs", "top-1 (%)", "untrained", "by width alone", title=name
    )
    for row in rows:
        others = [f"{100 * row[n]:.2f}" if n in row else "" for n in ("untrained", "by_width")]
        own = f"{row['depth']:.2f}", f"{row['width']:.2f}", f"{row['macs'] / 1e6:.1f}"
        table.add_row(*own, f"{100 * row['accuracy']:.2f}", *others)
    return table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or manifolds")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--depths", type=float, nargs="+", default=DEPTHS)
    parser.add_argument("--widths", type=float, nargs="+", default=WIDTHS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    document: dict[str, Any] = {"torch": torch.__version__, "device": given.device, "runs": {}}
    for path in given.runs:
        file = path / "manifold.safetensors" if path.is_dir() else path
        manifold, task = opened(file, given.data, given.device)
        rows = measure(manifold, task, given.depths, given.widths)
        document["runs"][path.name] = {"images": len(task.test), "rows": rows}
        Console().print(shown(path.name, rows))
        if given.json:
            given.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
