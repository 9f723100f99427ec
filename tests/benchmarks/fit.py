"""Seconds of a fit's step against a plain training step of the same network, in the same run.

A CIFAR ResNet-20 and random images of its size. A plain step is forward, loss, backward and update
of all weights, in float32 and in bfloat16, in torch's own memory layout (which the ratios take) and
with channels last; a fit's step is that of the recipe named. Freed memory is kept in all of them,
as the commands do. Sampling is counted in coordinate evaluations a second of the paper's 5×256 INR.

    python tests/benchmarks/fit.py --json fit.json
"""

import argparse
import json
import resource
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from neumeta_cli.checkpoint import resolve
from neumeta_cli.data.images import Images
from neumeta_cli.data.settings import DataSection
from neumeta_cli.distill import Fitter
from neumeta_cli.distill.draws import MIXED
from neumeta_cli.hardware import keep_freed_memory
from neumeta_cli.manifold import build_manifold, inr_settings
from neumeta_cli.manifold.settings import NoiseSection
from neumeta_cli.recipe import Recipe, load_recipe
from neumeta_cli.tasks import Classification

ARCH, BATCH, IMAGES = "cifar_resnet20", 128, 1024
DRAWS = 20_000  # of a step's networks, to see how many it trains
FITS = {
    "scope paper, the paper's MLP": ["cifar10_resnet20", "inr.kind=mlp", "inr.hidden=256"],
    "scope paper, its recipe": ["cifar10_resnet20"],
    "scope all, its recipe": ["cifar10_resnet20_all"],
    "scope all, its recipe in float32": ["cifar10_resnet20_all", "fit.precision=float32"],
    "scope all, one network a step": ["cifar10_resnet20_all", "fit.anchors=[]"],
    "scope all, factorised": [
        *("cifar10_resnet20_all", "inr.kind=factorised", "inr.hidden=64", "inr.layers=3"),
        *("inr.frequencies=6", "inr.size_frequencies=1", "noise.channels=0.1", "loss.hint=0"),
    ],
}


def random_task(data: DataSection) -> Classification:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (IMAGES,), generator=generator)
    images = Images(labels, tuple(str(i) for i in range(10)), pixels)
    return Classification(data, images, images)


def median_seconds(step: Callable[[], object], steps: int) -> float:
    """The median, the first two left out."""
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def plain_step(precision: str, layout: torch.memory_format, steps: int) -> float:
    """Median seconds of a training step of the whole network."""
    torch.manual_seed(0)
    model = resolve(ARCH).build("cpu").train().to(memory_format=layout)
    task = random_task(DataSection(flip=True, crop_padding=4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        assert task.train is not None
        index = torch.randint(IMAGES, (BATCH,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            x = task.inputs(task.train, index, generator)
            scores = model(x.contiguous(memory_format=layout))
        loss = task.loss(scores.float(), task.train.labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return median_seconds(step, steps)


def fit_step(recipe: Recipe, steps: int) -> tuple[float, str]:
    """Seconds of a fit's step, frozen features computed beforehand, and its precision.

    Steps train different numbers of networks: the median for each number, times how often it is
    drawn.
    """
    torch.manual_seed(0)
    arch = resolve(ARCH)
    model = arch.build("cpu").eval().requires_grad_(False)
    manifold, tensors = build_manifold(
        model, arch, (3, 32, 32), recipe.scope, recipe.norm.fold, recipe.inr, recipe.noise
    )
    fitter = Fitter(manifold, tensors, random_task(recipe.data), recipe)
    precision = fitter.loop.settle_precision()
    if recipe.fit.mixed:
        remember_pool(fitter)
    pool, drawn = fitter.stepper.widths, []
    draw, generator = pool.draw, torch.Generator().manual_seed(0)

    def noted(choices: torch.Generator) -> list[tuple[dict[str, int], float]]:
        drawn.append(draw(choices))
        return drawn[-1]

    def step() -> int:
        parts = fitter.stepper.take(
            torch.randint(IMAGES, (BATCH,), generator=generator), fitter.loop.place
        )
        assert parts is not None
        fitter.loop.step += 1
        return len(drawn[-1])

    counts = Counter(len(draw(generator)) for _ in range(DRAWS))
    pool.draw = noted  # type: ignore[method-assign]
    for _ in range(2):
        step()
    found: dict[int, list[float]] = {count: [] for count in counts}
    while min(map(len, found.values())) < steps:
        start = time.perf_counter()
        count = step()
        found[count].append(time.perf_counter() - start)
    mean = sum(statistics.median(found[n]) * times / DRAWS for n, times in counts.items())
    return mean, precision


def remember_pool(fitter: Fitter) -> None:
    """What the networks of the pool need beside their weights, made by a fit's first steps."""
    manifold, stepper = fitter.manifold, fitter.stepper
    for place in range(MIXED):
        sizes = stepper.widths.mixed(place)
        with torch.no_grad():
            stepper.padding.pad(manifold.generate(sizes), sizes)
        manifold.skeleton(stepper.padding.sizes(sizes))


def sampling_rate(precision: str) -> tuple[int, float]:
    """Coordinates of one draw of the last block's weights, and evaluations a second."""
    arch = resolve(ARCH)
    model = arch.build("cpu").eval().requires_grad_(False)
    noise = NoiseSection(channels=0.5, sizes=0.5, samples=50, precision=precision)
    manifold, _ = build_manifold(
        model, arch, (3, 32, 32), "paper", True, inr_settings("mlp"), noise
    )
    sizes = manifold.frame.full
    coordinates = sum(t.c_out * t.c_in for t in manifold.targets(sizes))
    with torch.no_grad():
        seconds = median_seconds(lambda: manifold.draw(sizes, samples=10), 3)
    return coordinates, 10 * coordinates / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=15, help="timed steps")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    rows: list[dict[str, Any]] = []
    plain: dict[str, float] = {}
    for precision in ("float32", "bfloat16"):
        for layout in (torch.contiguous_format, torch.channels_last):
            seconds = plain_step(precision, layout, options.steps)
            named = "" if layout == torch.contiguous_format else ", channels last"
            what = f"plain step, {precision}{named}"
            rows.append({"what": what, "precision": precision, "seconds": seconds})
            plain.setdefault(precision, seconds)
    for name, (recipe, *overrides) in FITS.items():
        chosen = load_recipe(recipe, [*overrides, "norm.images=64", "fit.epochs=1000"])
        seconds, precision = fit_step(chosen, options.steps)
        rows.append({"what": name, "precision": precision, "seconds": seconds})
    for row in rows:
        row["of_plain_float32"] = row["seconds"] / plain["float32"]
        row["of_plain_same_precision"] = row["seconds"] / plain[row["precision"]]
    rates = {p: sampling_rate(p) for p in ("float32", "bfloat16")}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    table = Table("step", "seconds", "of plain float32", "of plain, same precision")
    for row in rows:
        table.add_row(
            row["what"],
            f"{row['seconds']:.3f}",
            f"{row['of_plain_float32']:.2f}",
            f"{row['of_plain_same_precision']:.2f}",
        )
    console = Console(width=100)
    console.print(table)
    for precision, (coordinates, rate) in rates.items():
        console.print(
            f"sampling, 5×256, {precision}: {rate:,.0f} coordinate evaluations a second "
            f"({coordinates:,} a draw)"
        )
    console.print(f"peak memory {peak:.0f} MiB; {torch.get_num_threads()} threads")
    if options.json:
        sampling = [
            {"precision": p, "coordinates": c, "per_second": rate} for p, (c, rate) in rates.items()
        ]
        result = {"steps": rows, "sampling": sampling}
        result |= {"peak_mib": peak, "threads": torch.get_num_threads()}
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
