"""Seconds of a step in float32 and in bfloat16, and whether ``precision: auto`` takes the better.

Random weights and images. A plain step trains all weights; a fit's step is that of the recipe of
whole networks. What ``auto`` chose is found first; then steps in both take turns, and the median
counts. Processor time of all threads is shown beside the clock's.

    python tests/benchmarks/precision.py --json precision.json
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from neumeta_cli.checkpoint import Arch, resolve
from neumeta_cli.data.images import Images
from neumeta_cli.data.settings import DataSection
from neumeta_cli.distill import Fitter
from neumeta_cli.hardware import keep_freed_memory
from neumeta_cli.manifold import build_manifold
from neumeta_cli.recipe import load_recipe
from neumeta_cli.tasks import Classification, Task
from neumeta_cli.training import Processes
from neumeta_cli.training.plain import PlainStep
from neumeta_cli.training.precision import PRECISIONS, choose_precision

CPU, IMAGES, STEPS_OF_A_FIT = torch.device("cpu"), 256, 10_000
PLAIN = [  # architecture, pixels, batch
    ("lenet_digits", 8, 64),
    ("cifar_resnet20", 32, 128),
    ("timm/mobilenetv3_small_050", 96, 32),
    ("timm/tf_efficientnet_lite0", 128, 16),
    ("timm/test_convnext", 96, 32),
    ("timm/test_vit", 96, 32),
    ("torchvision/resnet18", 128, 16),
]
FITS = [("cifar_resnet20", 32, 128), ("timm/tf_efficientnet_lite0", 96, 8)]
Step = Callable[[str, int, int], None]


def random_task(arch: Arch, pixels: int) -> Classification:
    generator = torch.Generator().manual_seed(0)
    shape = (IMAGES, arch.default_input_size()[0], pixels, pixels)
    values = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (IMAGES,), generator=generator)
    images = Images(labels, tuple(str(i) for i in range(10)), values)
    channels = shape[1]
    return Classification(DataSection(mean=[0.5] * channels, std=[0.5] * channels), images, images)


def plain_step(name: str, pixels: int) -> Step:
    torch.manual_seed(0)
    arch = resolve(name)
    model, task = arch.build("cpu"), random_task(arch, pixels)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return PlainStep(model, task, optimizer, 0.0, 0, CPU, Processes()).rehearse


def fit_step(name: str, pixels: int, batch: int) -> Step:
    torch.manual_seed(0)
    recipe, arch = load_recipe("cifar10_resnet20_all", [f"fit.batch_size={batch}"]), resolve(name)
    model = arch.build("cpu").eval().requires_grad_(False)
    size = (arch.default_input_size()[0], pixels, pixels)
    manifold, tensors = build_manifold(
        model, arch, size, recipe.scope, recipe.norm.fold, recipe.inr, recipe.noise
    )
    task: Task = random_task(arch, pixels)
    return Fitter(manifold, tensors, task, recipe).stepper.rehearse


def measure(what: str, step: Step, images: int, steps: int) -> dict[str, Any]:
    """One row: the choice, then the clock and the processor's time of steps in both."""
    started = time.perf_counter()
    choice = choose_precision(step, images, STEPS_OF_A_FIT, CPU)
    row: dict[str, Any] = {
        "what": what,
        "images": images,
        "chosen": choice.precision,
        "seconds_to_choose": time.perf_counter() - started,
    }
    clock: dict[str, list[float]] = {p: [] for p in PRECISIONS}
    busy: dict[str, list[float]] = {p: [] for p in PRECISIONS}
    for _ in range(steps):
        for precision in PRECISIONS:
            before = time.perf_counter(), time.process_time()
            step(precision, 0, images)
            clock[precision].append(time.perf_counter() - before[0])
            busy[precision].append(time.process_time() - before[1])
    row["seconds"] = {p: statistics.median(s) for p, s in clock.items()}
    row["processor_seconds"] = {p: statistics.median(s) for p, s in busy.items()}
    row["of_the_better"] = row["seconds"][choice.precision] / min(row["seconds"].values())
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(2)
    table = Table("step", "images", "float32", "bfloat16", "auto", "of the better", "to choose (s)")
    rows = []
    jobs = [(f"plain, {n}, {p} px", b, lambda n=n, p=p: plain_step(n, p)) for n, p, b in PLAIN]
    jobs += [(f"fit, {n}, {p} px", b, lambda n=n, p=p, b=b: fit_step(n, p, b)) for n, p, b in FITS]
    for what, batch, make in jobs:
        row = measure(what, make(), batch, options.steps)
        rows.append(row)
        seconds = [f"{row['seconds'][p]:.3f}" for p in PRECISIONS]
        ratio, took = f"{row['of_the_better']:.3f}", f"{row['seconds_to_choose']:.1f}"
        table.add_row(what, str(batch), *seconds, row["chosen"], ratio, took)
    Console(width=120).print(table)
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"{capability}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    if options.json:
        about = {
            "capability": capability,
            "machine": platform.machine(),
            "torch": torch.__version__,
        }
        options.json.write_text(json.dumps(about | {"rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
