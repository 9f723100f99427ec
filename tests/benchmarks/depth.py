"""Runs of blocks in the architectures of the coverage table, each network tried at half depth.

On meta tensors: half of every run's blocks are left out (the last ones that can go) and the outputs
must have their shapes. With random weights: a network that has all its blocks again gives the
outputs of the architecture's own, bit for bit. Seconds are processor time, of finding the runs and
of the trace before it.

    python tests/benchmarks/depth.py --json depth.json
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._pytree import tree_leaves

from neumeta_cli.checkpoint import resolve
from neumeta_cli.resize import open_frame
from neumeta_cli.trace import meta_inputs, on_meta

COVERAGE = Path(__file__).parents[2] / "examples" / "results" / "coverage.json"
HALF = 0.5


def measure(name: str) -> dict[str, Any]:
    """Find the runs of one network, and run it without half of their blocks."""
    arch = resolve(name)
    size = arch.default_input_size()
    begun = time.process_time()
    model = arch.build("cpu")
    frame = open_frame(model, size)
    traced = time.process_time()
    runs = frame.runs
    row: dict[str, Any] = {
        "arch": name,
        "runs": {run.name: [run.fewest, len(run.blocks)] for run in runs},
        "held": {run.name: run.held for run in runs if run.held},
        "trace_seconds": round(traced - begun, 2),
        "seconds": round(time.process_time() - traced, 2),
    }
    gone = [b for run in runs for b in run.removable[: len(run.blocks) - run.count(HALF)]]
    half = frame.without(gone)
    small = on_meta(half.skeleton(half.full))
    args, kwargs = meta_inputs(small, size)
    with torch.no_grad(), torch.device("meta"):
        made = [
            tuple(t.shape) for t in tree_leaves(small(*args, **kwargs)) if isinstance(t, Tensor)
        ]
    with torch.no_grad():
        x = torch.randn(1, *size)
        again = half.whole.build({}, model.state_dict())
        pairs = zip(tree_leaves(model(x)), tree_leaves(again(x)), strict=True)
        row["full_depth_same_bits"] = all(torch.equal(one, other) for one, other in pairs)
    row |= {"gone": len(gone), "runs_at_half": made == list(frame.trace.output_shapes)}
    parameters = (sum(p.numel() for p in m.parameters()) for m in (small, frame.model))
    row["parameters_left"] = round(next(parameters) / next(parameters), 4)
    return row


def tried(name: str) -> dict[str, Any]:
    """``measure``, or what it failed with."""
    try:
        return measure(name)
    except Exception as error:  # is counted
        return {"arch": name, "fault": f"{type(error).__name__}: {error}".splitlines()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("archs", nargs="*", help="default: those of the coverage table")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    archs = options.archs
    if not archs:
        archs = [r["model"] for r in json.loads(COVERAGE.read_text("utf-8"))["rows"]]
    rows = []
    for name in archs:
        rows.append(tried(name))
        last = rows[-1]
        print(name, last.get("fault") or f"{last['gone']} blocks", flush=True)
        if options.json:
            options.json.write_text(json.dumps({"models": rows}, indent=1) + "\n", encoding="utf-8")
    table = Table(
        "network", "runs", "blocks", "can go", "at half depth", "of parameters", "full depth", "s"
    )
    for row in rows:
        runs = row.get("runs", {})
        counts = (len(runs), sum(blocks for _, blocks in runs.values()), row.get("gone", 0))
        shown = "runs" if row.get("runs_at_half") else row.get("fault", "fails")
        left, took = row.get("parameters_left", ""), row.get("seconds", "")
        whole = "same bits" if row.get("full_depth_same_bits") else "DIFFERS"
        table.add_row(row["arch"], *map(str, counts), shown, str(left), whole, str(took))
    able = [row for row in rows if row.get("gone") and row["runs_at_half"]]
    Console(width=120).print(table)
    same = sum(row.get("full_depth_same_bits", False) for row in rows)
    print(
        f"{len(able)} of {len(rows)} run at half depth, {same} have the same bits at full depth; "
        f"torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
