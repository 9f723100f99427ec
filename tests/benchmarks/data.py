"""Images a second beside timm's own loader, and a fit's step on files beside one on memory.

Both loaders read the same files with as many workers, the same transforms and no other work; they
take turns, and the median counts; processor time is shown too, which other work on the machine
changes less (Linux). The files' short side is the 256 that an input of 224 is cut from at 0.875, so
evaluation is measured at 0.9, too, where each is resized. Then the steps of a fit: on images held
in memory, which are not augmented, and on files, which are cut at random from the originals by a
worker, with one thread for the network. The archive has one image of each of ImageNet's classes;
copies of them are written.

    python tests/benchmarks/data.py --archive imagenet-1000.tar.gz --images 20000 --json data.json
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from timm.data import create_dataset, create_loader

from neumeta_cli.checkpoint import resolve
from neumeta_cli.data.formats import load_images
from neumeta_cli.data.settings import DataSection
from neumeta_cli.distill import Fitter
from neumeta_cli.hardware import keep_freed_memory
from neumeta_cli.manifold import build_manifold
from neumeta_cli.recipe import load_recipe
from neumeta_cli.reporting import Silent
from neumeta_cli.tasks import Classification
from neumeta_cli.training import Place

SIDE, BATCH, CROP = 224, 64, (0.08, 1.0)
KINDS = {"training": 0.875, "evaluation": 0.875, "evaluation, resized": 0.9}  # crop_fraction
STEP_SIDE, STEP_BATCH, STEPS = 96, 8, 4  # of the fit; steps in a turn


def write_copies(archive: Path, folder: Path, count: int) -> None:
    """As many JPEG files in class folders, each of the archive's under several names."""
    with tarfile.open(archive) as tar:
        files = [m for m in tar if m.name.endswith(".jpg")]
        contents = [(Path(m.name), tar.extractfile(m).read()) for m in files]
    for number in range(count):
        path, content = contents[number % len(contents)]
        target = folder / path.parent.name / f"{path.stem}_{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def section(folder: Path, workers: int, **fields: Any) -> DataSection:
    own = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    own |= {"crop_mode": "center", "in_memory": 0, "workers": workers}
    return DataSection(root=str(folder), test_root=str(folder), **{**own, **fields})


def our_loader(folder: Path, workers: int, kind: str) -> Callable[[], Iterable[Any]]:
    training = kind == "training"
    fields = {"flip": True, "resized_crop": CROP} if training else {}
    data = section(folder, workers, crop_fraction=KINDS[kind], **fields)
    images = load_images(data, "train", (3, SIDE, SIDE), Silent())
    task, epochs = Classification(data, images, images), iter(range(1000))

    def batches() -> Iterable[Any]:
        order, epoch = torch.arange(len(images)), next(epochs)
        own = torch.Generator().manual_seed(epoch)
        order = torch.randperm(len(images), generator=own) if training else order
        asked = [
            (index, images.generator(own, epoch, step) if training else None, slice(None))
            for step, index in enumerate(order.split(BATCH))
        ]
        return task.batches(images, asked)

    return batches


def timms_loader(folder: Path, workers: int, kind: str) -> Callable[[], Iterable[Any]]:
    loader = create_loader(
        create_dataset("", root=str(folder)),
        (3, SIDE, SIDE),
        BATCH,
        is_training=kind == "training",
        scale=CROP,
        color_jitter=None,
        interpolation="bicubic",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        crop_pct=KINDS[kind],
        num_workers=workers,
        device=torch.device("cpu"),
    )
    return lambda: loader


def busy() -> float:
    """Processor seconds of this process and of those that it began, so far."""
    spent = time.process_time()
    for worker in multiprocessing.active_children():
        fields = Path(f"/proc/{worker.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        spent += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def rate(batches: Callable[[], Iterable[Any]]) -> tuple[float, float]:
    """Images a second over one pass, and processor milliseconds an image."""
    seen, start, before = 0, time.perf_counter(), busy()
    for x, _ in batches():
        assert x.shape[1:] == (3, SIDE, SIDE)
        assert x.dtype == torch.float32
        seen += len(x)
    return seen / (time.perf_counter() - start), 1000 * (busy() - before) / seen


def compare_loaders(folder: Path, workers: int, kind: str, turns: int) -> dict[str, Any]:
    """One row; a first pass of each begins the workers and does not count."""
    loaders = {"ours": our_loader, "timm": timms_loader}
    made = {name: make(folder, workers, kind) for name, make in loaders.items()}
    rates: dict[str, list[float]] = {name: [] for name in made}
    costs: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(turns + 1):
        for name, batches in made.items():
            found, cost = rate(batches)
            rates[name] += [found] if turn else []
            costs[name] += [cost] if turn else []
    ratios = [a / b for a, b in zip(rates["ours"], rates["timm"], strict=True)]
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "what": kind,
        "workers": workers,
        "images_a_second": medians,
        "processor_ms_an_image": {n: statistics.median(v) for n, v in costs.items()},
        "ratio": statistics.median(ratios),
    }


def compare_steps(folder: Path, arch_name: str, turns: int) -> dict[str, Any]:
    """Seconds of a fit's step on files over those on images held in memory; they take turns."""
    torch.manual_seed(0)
    arch, size = resolve(arch_name), (3, STEP_SIDE, STEP_SIDE)
    recipe = load_recipe("cifar10_resnet20_all", [f"fit.batch_size={STEP_BATCH}"])
    seconds: dict[str, list[float]] = {}
    steppers = {}
    cropped = {"flip": True, "resized_crop": CROP}
    for name, fields in (("memory", {"in_memory": 1 << 40}), ("files", cropped)):
        model = arch.build("cpu").eval().requires_grad_(False)
        manifold, tensors = build_manifold(
            model, arch, size, recipe.scope, recipe.norm.fold, recipe.inr, recipe.noise
        )
        data = section(folder, 1, **fields)
        images = load_images(data, "train", size, Silent())
        images = replace(images, classes=tuple(map(str, range(1000))))
        task = Classification(data, images, images)
        steppers[name] = Fitter(manifold, tensors, task, recipe).stepper
        seconds[name] = []
    batches = [torch.arange(n * STEP_BATCH, (n + 1) * STEP_BATCH) for n in range(STEPS + 1)]
    for turn in range(turns + 1):
        for name, stepper in steppers.items():
            stepper.expect(batches, 0)
            for number, index in enumerate(batches):
                stepper.choices.manual_seed(number)  # the same widths in every turn
                start = time.perf_counter()
                stepper.take(index, Place(number, len(batches)))
                if number and turn:  # the first waits for a worker that has just begun
                    seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["files"], seconds["memory"], strict=True)]
    return {
        "what": f"step of a fit, {arch_name}, {STEP_BATCH} images of {STEP_SIDE} px, 1 thread",
        "workers": 1,
        "seconds": medians,
        "ratio": statistics.median(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--arch", default="torchvision/resnet18", help="empty: loaders alone")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_copies(options.archive, folder, options.images)
        rows = [
            compare_loaders(folder, workers, kind, options.turns)
            for kind in KINDS
            for workers in options.workers
        ]
        if options.arch:
            rows.append(compare_steps(folder, options.arch, options.turns))
    table = Table("what", "workers", "ours, or files", "timm, or memory", "ratio", "processor (ms)")
    for row in rows:
        pair = (row.get("images_a_second") or row["seconds"]).values()
        shown = [f"{v:,.0f}/s" if "images_a_second" in row else f"{v:.3f} s" for v in pair]
        shown = shown if "images_a_second" in row else shown[::-1]
        costs = row.get("processor_ms_an_image", {}).values()
        told = ", ".join(f"{cost:.2f}" for cost in costs)
        table.add_row(row["what"], str(row["workers"]), *shown, f"{row['ratio']:.3f}", told)
    Console(width=120).print(table)
    about = {
        "images": options.images,
        "batch": BATCH,
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    if options.json:
        options.json.write_text(json.dumps(about | {"rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
