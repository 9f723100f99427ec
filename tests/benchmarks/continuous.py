"""Accuracy over a fine range of widths, to see whether any falls out.

For each manifold, every width of the range is sampled and measured on the test images. A width
falls out where it lies below the line between its neighbours ten steps away. A picture shows all.

    python tests/benchmarks/continuous.py all=runs/all paper=runs/paper --data cifar10 --json c.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from depth_accuracy import opened
from rich.console import Console
from rich.progress import track
from rich.table import Table

from neumeta_cli.evaluate.plots import canvas, save_both
from neumeta_cli.manifold import Manifold
from neumeta_cli.tasks import Task

APART = 10  # steps to the neighbours
SHOWN = 10  # a table's rows are so many steps apart


def swept(manifold: Manifold, task: Task, widths: list[float], name: str) -> dict[float, float]:
    """The accuracy at each width in %; networks of like sizes are measured once."""
    known: dict[tuple[int, ...], float] = {}
    found = {}
    for width in track(widths, name):
        sizes = manifold.frame.sizes(width)
        key = tuple(sizes.values())
        if key not in known:
            known[key] = 100 * task.evaluate(manifold.sample(sizes=sizes))
        found[width] = round(known[key], 2)
    return found


def below_line(accuracies: list[float]) -> list[float | None]:
    """How far each lies below the line between its neighbours; above it is negative."""
    count = len(accuracies)
    return [
        None
        if not APART <= at < count - APART
        else round((accuracies[at - APART] + accuracies[at + APART]) / 2 - value, 3)
        for at, value in enumerate(accuracies)
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", help="NAME=run folder, or manifold")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--low", type=float, default=0.2)
    parser.add_argument("--high", type=float, default=1.3)
    parser.add_argument("--step", type=float, default=0.01)
    parser.add_argument("--limit", type=int, help="test images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    count = round((given.high - given.low) / given.step)
    widths = [round(given.low + given.step * n, 6) for n in range(count + 1)]
    document: dict[str, Any] = {"torch": torch.__version__, "device": given.device, "runs": {}}
    for named in given.runs:
        name, _, place = named.partition("=")
        path = Path(place)
        file = path / "manifold.safetensors" if path.is_dir() else path
        manifold, task = opened(file, given.data, given.device, given.limit)
        accuracies = list(swept(manifold, task, widths, name).values())
        below = below_line(accuracies)
        worst = max((value, w) for value, w in zip(below, widths, strict=True) if value is not None)
        wider = [a for a, width in zip(accuracies, widths, strict=True) if width >= 1]
        document["runs"][name] = {
            "images": len(task.test),
            "accuracy": dict(zip(widths, accuracies, strict=True)),
            "worst_below_line": {"width": worst[1], "points": worst[0]},
            "widest_range_above_1": [min(wider), max(wider)] if wider else None,
        }
        table = Table("width", "top-1 (%)", "below the line", title=f"{name}: worst {worst}")
        for at in range(0, len(widths), SHOWN):
            line = "" if below[at] is None else f"{below[at]:.2f}"
            table.add_row(f"{widths[at]:g}", f"{accuracies[at]:.2f}", line)
        Console().print(table)
        if given.json:
            given.json.write_text(json.dumps(document, indent=1))
    if given.picture:
        draw(document, given.picture)


def draw(document: dict[str, Any], path: Path) -> None:
    """The accuracy over width of each manifold."""
    figure, axes = canvas(path, (7.2, 4.0))
    for name, run in document["runs"].items():
        axes.plot(list(run["accuracy"]), list(run["accuracy"].values()), ".-", label=name, lw=1)
    axes.axvline(1.0, color="0.6", linestyle=":")
    axes.set_xlabel("width (channels over the checkpoint's)")
    axes.set_ylabel("top-1 (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    save_both(figure, path)


if __name__ == "__main__":
    main()
