"""The recipe itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neumeta_cli.evaluate.methods.base import Bench, Method, Outcome
from neumeta_cli.evaluate.methods.fitting import adapted, fit_or_load


class NeuMeta(Method):
    """One manifold for all widths (Yang and Wang, ECCV 2024).

    Args:
        variation: recipe fields in other sections than ``permute`` (which the bench has seen to),
            as ``section: {field: value}``; an ablation's.

    """

    name, label = "neumeta", "NeuMeta"

    def __init__(self, variation: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.variation = {s: dict(fields) for s, fields in (variation or {}).items()}
        if self.variation:
            shown = [
                f"{s}.{k}={v}" for s, fields in self.variation.items() for k, v in fields.items()
            ]
            self.label = ", ".join(shown)

    def run(self, bench: Bench, folder: Path) -> Outcome:
        fitted = fit_or_load(bench, adapted(bench.recipe, self.variation), folder)
        networks = {w: fitted.manifold.sample(sizes=bench.frame.sizes(w)) for w in bench.widths}
        return Outcome(networks, fitted.seconds, fitted.epochs, fitted.bytes, fitted.parameters)

    def settings(self) -> dict[str, Any]:
        return self.variation
