"""How much faster exports of smaller widths are, in torch, as a torch program and in onnxruntime.

    python tests/benchmarks/export.py --json examples/results/export_latency.json
    python tests/benchmarks/export.py --arch timm/vit_small_patch16_224 --heads count --batches 1

The manifold is made in memory with random weights, which times do not depend on. Folded, float32,
at the network's own size. Networks of all widths take turns, so that a busy machine disturbs all
alike; the least of the times counts. Exports are compared with the network that they were made of:
the largest difference of their outputs over the largest output.
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
from torch import Tensor

from neumeta_cli.checkpoint import resolve, write_text
from neumeta_cli.export import Finish, export_network
from neumeta_cli.manifold import Manifold, build_manifold, inr_settings
from neumeta_cli.manifold.settings import NoiseSection
from neumeta_cli.resize import measure_cost

WIDTHS = (1.0, 0.75, 0.5)
Run = Callable[[], Tensor]


def untrained(name: str, heads: str) -> Manifold:
    """Of a network with random weights, every clique in scope."""
    torch.manual_seed(0)
    arch = resolve(name)
    model = arch.build("cpu").requires_grad_(False)
    inr, noise = inr_settings("selected", knots=[0.5]), NoiseSection(channels=0, sizes=0)
    size = arch.default_input_size()
    return build_manifold(model, arch, size, "all", False, inr, noise, heads)[0]


def runs(manifold: Manifold, width: float, folder: Path, batch: int) -> dict[str, Run]:
    """A forward pass in each runtime, with as many threads as torch has."""
    images = torch.randn(batch, *manifold.input_size)
    network, path, program = (folder / f"{width}.{kind}" for kind in ("pt", "onnx", "pt2"))
    for made in (path, program):
        if not made.exists():
            export_network(manifold, made, width, samples=0)
    model = export_network(manifold, network, width, samples=0, finish=Finish(fold=True)).model
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options)
    inputs = {"input": images.numpy()}
    again = torch.export.load(program).module()
    return {
        "torch": lambda: model(images),
        "torch program": lambda: again(images),
        "onnxruntime": lambda: torch.from_numpy(session.run(None, inputs)[0]),
    }


@torch.no_grad()
def furthest(found: dict[str, Run]) -> float:
    """Of what the exports give from what the network gives, over its largest output."""
    wanted, *others = (run() for run in found.values())
    return max(float((other - wanted).abs().max() / wanted.abs().max()) for other in others)


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


def measure(
    manifold: Manifold, rounds: dict[int, int], console: Console
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    size = manifold.input_size
    costs = {w: measure_cost(manifold.sample(w, samples=0), size) for w in WIDTHS}
    with tempfile.TemporaryDirectory() as folder:
        for batch in rounds:
            made = {width: runs(manifold, width, Path(folder), batch) for width in WIDTHS}
            apart = max(map(furthest, made.values()))
            console.print(f"batches of {batch}; outputs differ by {apart:.1e}", style="dim")
            for runtime in next(iter(made.values())):
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
                        "apart": apart,
                    }
                    for width in WIDTHS
                ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="torchvision/resnet18")
    parser.add_argument("--heads", choices=("width", "count"), default="width")
    parser.add_argument("--batches", type=int, nargs="+", default=(1, 64))
    parser.add_argument("--rounds", type=int, nargs="+", default=(15, 2), help="by batch size")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console = Console(width=100)
    rounds = dict(zip(options.batches, options.rounds, strict=False))
    rows = measure(untrained(options.arch, options.heads), rounds, console)
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
        result = {"arch": options.arch, **versions, **machine, "rows": rows}
        write_text(options.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
