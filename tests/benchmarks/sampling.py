"""Seconds and peak memory of exporting networks of every width with K draws.

Manifolds of whole networks (scope all) as they are before any fit, with random weights; each in a
process of its own, whose peak memory counts. An export samples at full width and writes a ``.pt``
file. The paper's 5×256 MLP takes minutes for ResNet-18, so it is left out unless asked for.

    python tests/benchmarks/sampling.py --json examples/results/sampling.json
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from neumeta_cli.checkpoint import resolve
from neumeta_cli.export import export_network
from neumeta_cli.manifold import InrSettings, build_manifold, inr_settings
from neumeta_cli.manifold.settings import NoiseSection

FACTORISED = inr_settings("factorised", hidden=128, layers=3, frequencies=6, size_frequencies=0)
SELECTED, MLP = inr_settings("selected"), inr_settings("mlp")
WIDTH = 1.0  # the most weights


@dataclass(frozen=True)
class Job:
    """One export: of which network, with which INR, at which K and precision."""

    arch: str
    inr: InrSettings
    draws: int
    precision: str = "float32"

    @property
    def name(self) -> str:
        return f"{self.arch}, {self.inr.kind}, {self.precision}"


JOBS = [
    Job("cifar_resnet20", FACTORISED, 50),
    Job("cifar_resnet20", SELECTED, 50),
    Job("torchvision/resnet18", FACTORISED, 5),
    Job("torchvision/resnet18", FACTORISED, 50),
    Job("torchvision/resnet18", SELECTED, 50),
    Job("cifar_resnet20", MLP, 50),
    Job("cifar_resnet20", MLP, 50, "bfloat16"),
]
SLOW = [
    Job("torchvision/resnet18", MLP, 50, "bfloat16"),
    Job("torchvision/resnet18", MLP, 50),
]


def run(job: Job) -> dict[str, Any]:
    """Export once; peak memory is that of this process."""
    torch.manual_seed(0)
    arch = resolve(job.arch)
    model = arch.build("cpu").eval().requires_grad_(False)
    noise = NoiseSection(channels=0.5, sizes=0.5, samples=job.draws, precision=job.precision)
    size = arch.default_input_size()
    manifold, _ = build_manifold(model, arch, size, "all", False, job.inr, noise)
    manifold.requires_grad_(False)
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        exported = export_network(manifold, Path(folder) / "network.pt", WIDTH)
        seconds = time.perf_counter() - start
    cpu = time.process_time()
    return {
        **asdict(job),
        "inr": job.inr.kind,
        "weights": sum(p.numel() for p in exported.model.parameters()),
        "seconds": seconds,
        "cpu_seconds_of_process": cpu,
        "peak_mib_before": before,
        "peak_mib": peak(),
    }


def peak() -> float:
    """Peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--slow", action="store_true", help="ResNet-18 with the paper's MLP too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table = Table("export at full width", "K", "weights", "seconds", "peak MiB (before)")
    rows = []
    for job in JOBS + (SLOW if options.slow else []):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row = pool.apply(run, (job,))
        rows.append(row)
        table.add_row(
            job.name,
            str(job.draws),
            f"{row['weights']:,}",
            f"{row['seconds']:.2f}",
            f"{row['peak_mib']:.0f} ({row['peak_mib_before']:.0f})",
        )
    Console(width=110).print(table)
    load = os.getloadavg()[0]
    print(f"{torch.get_num_threads()} threads; load of the machine {load:.1f}")
    if options.json:
        result = {"rows": rows, "threads": torch.get_num_threads(), "load": load}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
