"""How much faster exports of smaller widths are: ResNet-18, torch and onnxruntime.

    python tests/benchmarks/export.py --json examples/results/export_latency.json

The manifold is made in memory with random weights, which times do not depend on. Folded, float32,
224×224 pixels. Networks of all widths take turns, so that a busy machine disturbs all alike; the
least of the times counts.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from rich.console import Console
from rich.table import Table

from neumeta_cli.checkpoint import resolve, write_text
from neumeta_cli.export import Finish, export_network
from neumeta_cli.manifold import Manifold, build_manifold, inr_settings
from neumeta_cli.manifold.settings import NoiseSection
from neumeta_cli.resize import measure_cost

ARCH, WIDTHS, BATCHES = "torchvision/resnet18", (1.0, 0.75, 0.5), (1, 64)
Run = Callable[[], object]


def untrained() -> Manifold:
    """Of a ResNet-18 with random weights, every clique in scope."""
    torch.manual_seed(0)
    arch = resolve(ARCH)
    model = arch.build("cpu").requires_grad_(False)
    inr, noise = inr_settings("selected", knots=[0.5]), NoiseSection(channels=0, sizes=0)
    return build_manifold(model, arch, arch.default_input_size(), "all", False, inr, noise)[0]


def runs(manifold: Manifold, width: float, folder: Path, batch: int) -> dict[str, Run]:
    """A forward pass in each runtime, with as many threads as torch has."""
    images = torch.randn(batch, *manifold.input_size)
    path = folder / f"{width}.onnx"
    network = folder / f"{width}.pt"
    if not path.exists():
        export_network(manifold, path, width, samples=0)
    model = export_network(manifold, network, width, samples=0, finish=Finish(fold=True)).model
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options)
    inputs = {"input": images.numpy()}
    return {"torch": lambda: model(images), "onnxruntime": lambda: session.run(None, inputs)}


@torch.no_grad()
def fastest(by_width: dict[float, Run], rounds: int) -> dict[float, float]:
    """Seconds by width: the least of ``rounds``, in each of which every width runs once."""
    best = dict.fromkeys(by_width, float("inf"))
    for round_ in range(rounds + 1):
        for width, run in by_width.items():
            began = time.perf_counter()
            run()
            if round_:  # the first one warms up
                best[width] = min(best[width], time.perf_counter() - began)
    return best


def measure(rounds: dict[int, int], console: Console) -> list[dict[str, object]]:
    manifold = untrained()
    rows: list[dict[str, object]] = []
    size = manifold.input_size
    costs = {w: measure_cost(manifold.sample(w, samples=0), size) for w in WIDTHS}
    with tempfile.TemporaryDirectory() as folder:
        for batch in BATCHES:
            made = {width: runs(manifold, width, Path(folder), batch) for width in WIDTHS}
            console.print(f"timing batches of {batch}", style="dim")
            for runtime in ("torch", "onnxruntime"):
                seconds = fastest({w: made[w][runtime] for w in WIDTHS}, rounds[batch])
                rows += [
                    {
                        "runtime": runtime,
                        "batch": batch,
                        "width": width,
                        "macs": costs[width].macs,
                        "parameters": costs[width].parameters,
                        "seconds": seconds[width],
                        "times_faster": seconds[1.0] / seconds[width],
                    }
                    for width in WIDTHS
                ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, nargs=2, default=(15, 2), help="by batch size")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console = Console(width=100)
    rows = measure(dict(zip(BATCHES, options.rounds, strict=True)), console)
    table = Table("runtime", "batch", "width", "MACs", "ms", "times faster")
    for row in rows:
        table.add_row(
            str(row["runtime"]),
            str(row["batch"]),
            f"{row['width']:g}",
            f"{row['macs']:,}",
            f"{1000 * row['seconds']:.1f}",
            f"{row['times_faster']:.2f}",
        )
    console.print(table)
    if options.json:
        versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
        machine = {"machine": platform.machine(), "threads": torch.get_num_threads()}
        result = {"arch": ARCH, **versions, **machine, "rows": rows}
        write_text(options.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
