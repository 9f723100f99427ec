"""Methods that train: all through the fit, so that conditions are alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neumeta_cli.compare.methods.base import Bench, Method, Outcome
from neumeta_cli.distill import distill_checkpoint
from neumeta_cli.evaluate import MANIFOLD, Record
from neumeta_cli.manifold import Manifold, load_manifold, save_manifold
from neumeta_cli.recipe import Recipe, changed
from neumeta_cli.runs import FIT_FILE, MANIFOLD_FILE

Changes = Mapping[str, Mapping[str, Any]]  # section: field: value

# A slimmable network: slices of one set of weights, ordered by norm, that are trained themselves.
SLICES: Changes = {
    "norm": {"fold": False},
    "inr": {"kind": "selected", "knots": [], "knot_rates": [], "store": "float32"},
    "noise": {"channels": 0.0, "sizes": 0.0, "samples": 1},
    "loss": {"recon": 0.0, "reg": 0.0, "hint": 0.0},
    "fit": {
        "mixed": 0.0,
        "anchors": [],
        "anchor_shares": [],
        "anchor_spread": 0.0,
        "drawn_weight": 1.0,
        "update": 1.0,
        "warmup_steps": 0,
        "depths": None,
    },
}


class NeuMeta(Method):
    """One manifold for all widths (Yang and Wang, ECCV 2024).

    Args:
        variation: recipe fields in other sections than ``permute`` (which the bench has seen to),
            as ``section: {field: value}``; an ablation's.

    """

    name, label = "neumeta", MANIFOLD

    def __init__(self, variation: Changes | None = None) -> None:
        self.variation = {s: dict(fields) for s, fields in (variation or {}).items()}
        if self.variation:
            sections = self.variation.items()
            self.label = ", ".join(f"{s}.{k}={v}" for s, f in sections for k, v in f.items())

    def run(self, bench: Bench, folder: Path) -> Outcome:
        return _of_one(bench, changed(bench.recipe, self.variation), folder)

    def settings(self) -> dict[str, Any]:
        return self.variation


@dataclass(frozen=True)
class Slices(Method):
    """Networks that are slices of one set of weights.

    Attributes:
        changes: what the recipe of slices becomes on a bench.

    """

    name: str
    label: str
    changes: Callable[[Bench], Changes]
    trains_widths: bool = False

    def run(self, bench: Bench, folder: Path) -> Outcome:
        return _of_one(bench, changed(bench.recipe, SLICES, self.changes(bench)), folder)


@dataclass(frozen=True)
class Alone(Method):
    """A network of its own for each width, from the checkpoint's channels of largest ℓ1 norm.

    Full width is the checkpoint, and is not trained.

    Attributes:
        teacher: weight of the divergence from the checkpoint's outputs.

    """

    name: str
    label: str
    teacher: float = 0.0

    @property
    def needs_labels(self) -> bool:
        return not self.teacher

    def run(self, bench: Bench, folder: Path) -> Outcome:
        networks, fits = {}, []
        for width in bench.narrower:
            gamma = round(1 - width, 6)
            loss, fit = {"distill": self.teacher}, {"gamma": [gamma, gamma]}
            recipe = changed(bench.recipe, SLICES, {"loss": loss}, {"fit": fit})
            fits.append(fit_or_load(bench, recipe, folder / f"gamma{gamma:g}"))
            networks[width] = fits[-1].manifold.sample(sizes=bench.frame.sizes(width))
        stored = [t for n in networks.values() for t in n.state_dict().values()]
        return Outcome(
            networks,
            sum(f.seconds for f in fits),
            sum(f.epochs for f in fits),
            sum(t.numel() * t.element_size() for t in stored),
            sum(p.numel() for n in networks.values() for p in n.parameters()),
        )


def _slimmable(bench: Bench) -> Changes:
    """Every width of the table that lies in the trained range, in every step."""
    low, high = bench.recipe.fit.gamma
    trained = [g for g in bench.recipe.eval.gammas if low <= g <= high] or [low]
    return {"fit": {"gamma": [trained[0], trained[0]], "anchors": trained[1:]}}


def _universally_slimmable(bench: Bench) -> Changes:
    """The widest, the narrowest and a random width in every step."""
    return {"fit": {"anchors": list(bench.recipe.fit.gamma)}}


def _integral(bench: Bench) -> Changes:
    """Weights continuous along channels, read at evenly spread places."""
    return {"inr": {"kind": "integral"}}


TRAINED: tuple[Method, ...] = (
    NeuMeta(),
    Alone("individual", "individually trained"),
    Alone("distilled", "individually distilled", teacher=1.0),  # Hinton et al., 2015
    # Norm statistics are those of each width; affine terms are shared (Yu et al., 2019).
    Slices("slimmable", "slimmable", _slimmable, trains_widths=True),
    Slices("us_net", "universally slimmable", _universally_slimmable),  # Yu and Huang, 2019
    Slices("integral", "integral network", _integral),  # Solodskikh et al., 2023
)


class Taken(Record):
    """What a fit took: its ``fit.json``."""

    seconds: float
    epochs: int


@dataclass(frozen=True)
class Fitted:
    """A manifold, what its fit took, and what its file takes."""

    manifold: Manifold
    seconds: float
    epochs: int
    bytes: int
    parameters: int


def fit_or_load(bench: Bench, recipe: Recipe, folder: Path) -> Fitted:
    """Fit a manifold in ``folder``, go on with a fit there, or take the one that is done."""
    path, record = folder / MANIFOLD_FILE, folder / FIT_FILE
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
        Taken(seconds=seconds, epochs=result.epochs).write(record)
    taken = Taken.read(record)
    manifold = load_manifold(path, trust_code=True).to(bench.device)  # our own file
    parameters = sum(t.numel() for t in manifold.packed().values())
    return Fitted(manifold, taken.seconds, taken.epochs, path.stat().st_size, parameters)


def _of_one(bench: Bench, recipe: Recipe, folder: Path) -> Outcome:
    """The networks of one manifold."""
    fitted = fit_or_load(bench, recipe, folder)
    networks = {w: fitted.manifold.sample(sizes=bench.frame.sizes(w)) for w in bench.widths}
    return Outcome(networks, fitted.seconds, fitted.epochs, fitted.bytes, fitted.parameters)
