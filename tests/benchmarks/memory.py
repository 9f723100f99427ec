"""Peak memory of a fit against that of a plain training step of the same network and batch.

Random weights, images of noise. Each measurement is a process of its own, and what it holds before
it begins is subtracted: imports, libraries, the checkpoint. A plain step is a teacher's forward,
then forward, loss, backward and update of all weights, in float32, with the settings that torch and
glibc have of themselves. A fit is that of the automatic recipe with the settings of the commands:
the trial, some steps, all that the networks of the pool leave behind, more steps, what is done at
an epoch's end, steps again, and the table at the end with latency. Seconds are processor time.

    python tests/benchmarks/memory.py --json memory.json
"""

import argparse
import copy
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from noise_images import noise_task
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from neumeta_cli.checkpoint import Checkpoint, Weights, resolve
from neumeta_cli.distill import Fitter
from neumeta_cli.distill.draws import MIXED
from neumeta_cli.evaluate import sweep
from neumeta_cli.hardware import give_back_memory, keep_freed_memory
from neumeta_cli.manifold import build_manifold
from neumeta_cli.recipe.auto import auto_recipe, in_any_order
from neumeta_cli.resize import open_frame

CASES = {  # architecture, pixels, batch
    "EfficientNet-Lite0": ("timm/tf_efficientnet_lite0", 224, 32),
    "ResNet-20": ("cifar_resnet20", 32, 128),
    "MobileNetV3": ("timm/mobilenetv3_small_050", 224, 32),
    "ViT": ("timm/vit_tiny_patch16_224", 224, 32),
    "a user's own": ("memory:Own", 64, 128),
}
WARM = ("cifar_resnet20", 32, 4)  # imports what is imported late
BATCHES = 8  # of images: as many steps in an epoch
CHANNELS = 3


class Own(nn.Module):
    """A small network of a user's own."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        sizes = [(3, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
        layers = [
            nn.Sequential(nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
            for i, o, s in sizes
        ]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(x))
        return scores


def resident(key: str) -> float:
    """VmRSS, what this process has now, or VmHWM, the most since ``Stages`` last looked; in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


class Stages:
    """Memory by stage, beyond what was there before."""

    def __init__(self) -> None:
        gc.collect()
        give_back_memory()
        self.rows: list[dict[str, Any]] = []
        self.begun = resident("VmRSS")
        self._begin()

    def _begin(self) -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak
        self.start = time.process_time()

    def note(self, stage: str) -> None:
        took = time.process_time() - self.start
        peak, after = (round(resident(k) - self.begun, 1) for k in ("VmHWM", "VmRSS"))
        self.rows.append({"stage": stage, "peak": peak, "after": after, "seconds": round(took, 3)})
        self._begin()


def checkpoint_of(name: str, pixels: int) -> Checkpoint:
    torch.manual_seed(0)
    arch = resolve(name)
    model = arch.build("cpu").eval().requires_grad_(False)
    weights = Weights(dict(model.state_dict()))
    return Checkpoint(model, arch, (CHANNELS, pixels, pixels), weights, Path("random.pth"))


def plain(name: str, pixels: int, batch: int, steps: int) -> Stages:
    checkpoint = checkpoint_of(name, pixels)
    stages = Stages()
    teacher, model = (copy.deepcopy(checkpoint.model) for _ in range(2))
    optimizer = torch.optim.SGD(model.train().requires_grad_(True).parameters(), lr=1e-3)
    for _ in range(steps):
        x = torch.randn(batch, *checkpoint.input_size)
        with torch.no_grad():
            wanted = teacher(x).softmax(1)
        loss = nn.functional.cross_entropy(model(x), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        stages.note("step")
    return stages


def fit(name: str, pixels: int, batch: int, steps: int) -> Stages:
    keep_freed_memory()
    checkpoint = checkpoint_of(name, pixels)
    frame = open_frame(checkpoint.model, checkpoint.input_size)
    data = {"mean": [0.5] * CHANNELS, "std": [0.5] * CHANNELS}
    said = [f"fit.batch_size={batch}", "fit.epochs=1"]
    recipe = auto_recipe(checkpoint, frame, 50_000, data, overrides=said).recipe
    recipe = in_any_order(recipe, frame)
    with torch.no_grad():
        classes = checkpoint.model(torch.zeros(1, *checkpoint.input_size)).shape[1]
    task = noise_task(recipe.data, checkpoint.input_size, classes, BATCHES * batch)
    stages = Stages()
    manifold, tensors = build_manifold(
        *(checkpoint.model, checkpoint.arch, checkpoint.input_size, recipe.scope),
        *(recipe.norm.fold, recipe.inr, recipe.noise),
        frame=frame,
    )
    fitter = Fitter(manifold, tensors, task, recipe)
    loop, stepper = fitter.loop, fitter.stepper
    stages.note("manifold")
    outlook = loop.prepare()
    stages.note("trial")
    stages.rows[-1]["told"] = outlook.step_bytes >> 20

    def take(count: int) -> None:
        for _ in range(count):
            loop.advance()
            stages.note("step")

    take(steps)
    for place in range(MIXED) if recipe.fit.mixed else ():
        sizes = stepper.widths.mixed(place)
        stepper.draws.generate(sizes, stepper.noise)
        stepper.padding.places(sizes)
        manifold.skeleton(stepper.padding.sizes(sizes))
        loop.kept.after()  # as after the step that met it first
    stages.note("pool")
    take(2)
    loop.look()
    stages.note("epoch's end")
    take(2)
    loop.kept.before(step=False)  # as at a fit's end
    sweep(manifold.eval(), task, [1.0, 0.5], batches=(1, 64))
    stages.note("table")
    return stages


def measured(kind: str, case: str, batch: int | None, steps: int) -> dict[str, Any]:
    """The other side: one measurement in a fresh process."""
    command = [sys.executable, __file__, "--one", kind, case, "--steps", str(steps)]
    command += [] if batch is None else ["--batch", str(batch)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads(ran.stdout.splitlines()[-1])
    seconds = [row["seconds"] for row in rows if row["stage"] == "step"][1:]
    found = {"peak": max(row["peak"] for row in rows), "seconds": statistics.median(seconds)}
    return found | {"stages": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=4, help="in each part of a fit")
    parser.add_argument("--batch", type=int, help="instead of each case's own")
    parser.add_argument("--case", choices=CASES, action="append", help="only this one")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.one:
        kind, case = options.one
        measure = {"plain": plain, "fit": fit}[kind]
        name, pixels, batch = CASES[case]
        measure(*WARM, 1)
        stages = measure(name, pixels, options.batch or batch, options.steps)
        print(json.dumps(stages.rows))
        return
    rows = []
    table = Table("network", "batch", "plain (MiB)", "fit (MiB)", "of plain", "at", "step told")
    for case in options.case or CASES:
        batch = options.batch or CASES[case][2]
        by_kind = {
            kind: measured(kind, case, options.batch, options.steps) for kind in ("plain", "fit")
        }
        ratio = by_kind["fit"]["peak"] / by_kind["plain"]["peak"]
        rows.append({"case": case, "batch": batch, "ratio": ratio} | by_kind)
        worst = max(by_kind["fit"]["stages"], key=lambda row: row["peak"])["stage"]
        told = next(r["told"] for r in by_kind["fit"]["stages"] if "told" in r)
        peaks = [f"{by_kind[kind]['peak']:,.0f}" for kind in ("plain", "fit")]
        table.add_row(case, str(batch), *peaks, f"{ratio:.2f}", worst, f"{told:,}")
    Console(width=100).print(table)
    print(f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}")
    if options.json:
        about = {"machine": platform.machine(), "torch": torch.__version__, "rows": rows}
        options.json.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
