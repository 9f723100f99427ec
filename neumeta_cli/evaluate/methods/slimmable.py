"""One set of weights whose slices are the networks."""

from pathlib import Path
from typing import Any

from neumeta_cli.evaluate.methods.base import Bench, Method, Outcome
from neumeta_cli.evaluate.methods.fitting import SLICES, adapted, fit_or_load


class Slimmable(Method):
    """Every width of the table that lies in the trained range, in every step (Yu et al., 2019).

    Norm statistics are those of each width; affine terms are shared.
    """

    name, label = "slimmable", "slimmable"
    trains_widths = True

    def run(self, bench: Bench, folder: Path) -> Outcome:
        recipe = adapted(bench.recipe, SLICES, self.changes(bench))
        fitted = fit_or_load(bench, recipe, folder)
        networks = {w: fitted.manifold.sample(sizes=bench.frame.sizes(w)) for w in bench.widths}
        return Outcome(networks, fitted.seconds, fitted.epochs, fitted.bytes, fitted.parameters)

    def changes(self, bench: Bench) -> dict[str, dict[str, Any]]:
        """Which widths a step trains."""
        low, high = bench.recipe.fit.gamma
        trained = [g for g in bench.recipe.eval.gammas if low <= g <= high] or [low]
        return {"fit": {"gamma": [trained[0], trained[0]], "anchors": trained[1:]}}
