"""A network of its own for every width."""

from pathlib import Path

from neumeta_cli.evaluate.methods.base import Bench, Method, Outcome
from neumeta_cli.evaluate.methods.fitting import SLICES, adapted, fit_or_load


class Individual(Method):
    """Each width trained alone on the task, from the checkpoint's channels of largest ℓ1 norm.

    Full width is the checkpoint, and is not trained.
    """

    name, label = "individual", "individually trained"
    teacher = 0.0  # weight of the divergence from the checkpoint's outputs

    def run(self, bench: Bench, folder: Path) -> Outcome:
        networks, fits = {}, []
        for width in bench.narrower:
            gamma = round(1 - width, 6)
            loss, fit = {"distill": self.teacher}, {"gamma": [gamma, gamma]}
            recipe = adapted(bench.recipe, SLICES, {"loss": loss}, {"fit": fit})
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
