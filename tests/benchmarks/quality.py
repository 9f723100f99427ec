"""Scope all on CIFAR-10 (JPEG): NeuMeta beside slimmable networks and networks trained alone.

Every method starts from the same checkpoint (but ``from scratch``) and gets the same number of
epochs, batch size, augmentation, optimiser, teacher and calibration images; all run through the
fit itself. A method that has been run is not run again; ``--only`` runs some, the table shows all.

    python tests/benchmarks/quality.py --checkpoint cifar10_resnet20.pth --data cifar10-jpeg
"""

import argparse
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from neumeta_cli import pipeline
from neumeta_cli.cli.console import TerminalReporter
from neumeta_cli.recipe import Recipe, load_recipe

RECIPE = "cifar10_resnet20_all"
GAMMAS = (0.0, 0.25, 0.5, 0.65, 0.75)
SLIMMABLE = ("inr.knots=[]",)
STRICT = ("fit.mixed=0",)
SANDWICH = ("fit.anchors=[0.0,0.5]",)  # widest, narrowest and a random width


@dataclass(frozen=True)
class Method:
    """A way to networks of these γ, as changes to the recipe."""

    name: str
    overrides: tuple[str, ...]
    gammas: tuple[float, ...] = GAMMAS
    scratch: bool = False

    @property
    def folder(self) -> Path:
        return Path(re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_"))

    @property
    def table(self) -> Path:
        return self.folder / pipeline.TABLE_FILE


def _alone(name: str, gamma: float, *more: str, scratch: bool = False) -> Method:
    only = (f"fit.gamma=[{gamma},{gamma}]", "fit.anchors=[]", *more)
    overrides = (*SLIMMABLE, *STRICT, *only)
    return Method(f"{name}, γ {gamma:.0%}", overrides, (gamma,), scratch)


METHODS = [
    Method("NeuMeta", ()),
    Method("NeuMeta, all layers at one width", STRICT),
    Method("US-Net", (*SLIMMABLE, *STRICT, *SANDWICH)),
    Method("US-Net, drawn as NeuMeta's", SLIMMABLE),
    *(_alone("alone, from its largest channels", g) for g in (0.25, 0.5, 0.75)),
    *(_alone("alone, from scratch", g, "loss.distill=0", scratch=True) for g in (0.25, 0.5, 0.75)),
]


def run_method(method: Method, options: argparse.Namespace) -> None:
    """Run a method, or go on with it, unless it has been run."""
    folder = method.folder
    checkpoint = untrained() if method.scratch else options.checkpoint
    overrides = [
        *method.overrides,
        f"eval.gammas={list(method.gammas)}",
        f"model.checkpoint={checkpoint}",
        f"data.root={options.data}",
        *(options.set or []),
    ]
    recipe = load_recipe(RECIPE, overrides)
    recorded = folder / pipeline.RECIPE_FILE
    same = recorded.exists() and Recipe(**yaml.safe_load(recorded.read_text("utf-8"))) == recipe
    if not (same and method.table.exists()):
        pipeline.run_recipe(recipe, folder, resume=same, reporter=TerminalReporter())


def untrained() -> Path:
    """A checkpoint of fresh weights."""
    path = Path("untrained.safetensors").resolve()
    recipe = load_recipe(RECIPE)
    model, arch = pipeline.build_untrained(recipe)
    weights = pipeline.Weights(dict(model.state_dict()))
    checkpoint = pipeline.Checkpoint(model, arch, arch.default_input_size(), weights, path)
    return pipeline.write_permuted(path, checkpoint, weights)


def accuracies(done: list[dict[str, Any]]) -> dict[str, dict[float, float]]:
    """Accuracy by method and γ; networks trained alone share a row."""
    found: dict[str, dict[float, float]] = {}
    for run in done:
        for row in run["rows"]:
            if row["method"] == "checkpoint":
                continue
            name = run["method"].partition(", γ")[0]
            if row["method"] != "NeuMeta":
                if run["method"] != "NeuMeta":
                    continue
                name = row["method"]
            found.setdefault(name, {})[row["gamma"]] = row["accuracy"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("quality"), help="folder of the runs")
    parser.add_argument("--only", nargs="*", help="methods by number (0, 1, …); none: table alone")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for name in ("checkpoint", "data", "out", "json"):
        if getattr(options, name) is not None:
            setattr(options, name, getattr(options, name).resolve())
    options.out.mkdir(parents=True, exist_ok=True)
    os.chdir(options.out)
    chosen = range(len(METHODS)) if options.only is None else [int(n) for n in options.only]
    for number in chosen:
        run_method(METHODS[number], options)
    done = [
        {"method": m.name, **json.loads(m.table.read_text("utf-8"))}
        for m in METHODS
        if m.table.exists()
    ]
    table = Table("top-1 at γ", *(f"{g:.0%}" for g in GAMMAS), title=f"{RECIPE}, scope all")
    for name, by_gamma in accuracies(done).items():
        table.add_row(name, *(f"{by_gamma[g]:.2%}" if g in by_gamma else "" for g in GAMMAS))
    Console(width=110).print(table)
    if options.json:
        options.json.write_text(json.dumps(done, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
