"""Methods that train: all through the fit, so that conditions are alike."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neumeta_cli.checkpoint import write_text
from neumeta_cli.distill import distill_checkpoint
from neumeta_cli.evaluate.methods.base import Bench
from neumeta_cli.manifold import Manifold, load_manifold, save_manifold
from neumeta_cli.recipe import Recipe, parse_recipe

# A slimmable network: slices of one set of weights, ordered by norm, that are trained themselves.
SLICES: dict[str, dict[str, Any]] = {
    "norm": {"fold": False},
    "inr": {"kind": "selected", "knots": [], "store": "float32"},
    "noise": {"channels": 0.0, "sizes": 0.0, "samples": 1},
    "loss": {"recon": 0.0, "reg": 0.0, "hint": 0.0},
    "fit": {
        "mixed": 0.0,
        "anchors": [],
        "anchor_shares": [],
        "drawn_weight": 1.0,
        "knot_rates": [],
        "update": 1.0,
        "warmup_steps": 0,
    },
}


@dataclass(frozen=True)
class Fitted:
    """A manifold, what its fit took, and what its file takes."""

    manifold: Manifold
    seconds: float
    epochs: int
    bytes: int
    parameters: int


def adapted(recipe: Recipe, *changes: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """The recipe with some fields of its sections changed, later changes winning."""
    content = recipe.model_dump(mode="json")
    for change in changes:
        for section, fields in change.items():
            content[section] = {**content[section], **fields}
    return parse_recipe(content, recipe.name)


def fit_or_load(bench: Bench, recipe: Recipe, folder: Path) -> Fitted:
    """Fit a manifold in ``folder``, go on with a fit there, or take the one that is done."""
    path, record = folder / "manifold.safetensors", folder / "fit.json"
    if not (path.exists() and record.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        manifold, _, result = distill_checkpoint(
            bench.checkpoint,
            bench.task,
            recipe,
            bench.device,
            folder,
            True,
            bench.reporter,
            bench.frame,
        )
        save_manifold(path, manifold)
        seconds = result.seconds + result.preparation_seconds
        write_text(record, json.dumps({"seconds": seconds, "epochs": result.epochs}))
    taken = json.loads(record.read_text("utf-8"))
    manifold = load_manifold(path, trust_code=True).to(bench.device)  # our own file
    tensors = [*manifold.packed().values(), *manifold.fixed.values()]
    parameters = sum(t.numel() for t in tensors)
    return Fitted(manifold, taken["seconds"], taken["epochs"], path.stat().st_size, parameters)
