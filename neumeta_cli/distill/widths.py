"""At which widths a step trains the network."""

import torch

from neumeta_cli.manifold import Manifold
from neumeta_cli.recipe import FitSection


class WidthPool:
    """Draws the sizes of a step.

    One network is drawn: at width 1 in a share of the steps, else with 1 − γ of every clique's
    channels, γ from a range, or, in another share, with a γ for each clique. To it come the
    *anchors*, which every step trains (the sandwich rule of Yu and Huang, 2019).

    Args:
        manifold: whose cliques in scope change.
        fit: the recipe's section.

    """

    def __init__(self, manifold: Manifold, fit: FitSection) -> None:
        self.manifold, self.fit = manifold, fit
        self.full = manifold.sizes(1.0)
        self.anchors = [manifold.sizes(1 - gamma) for gamma in fit.anchors]

    def draw(self, generator: torch.Generator) -> list[dict[str, int]]:
        """Sizes of cliques, one set for each network that the step trains."""
        drawn = self._draw_one(generator)
        return [drawn, *(sizes for sizes in self.anchors if sizes != drawn)]

    def _draw_one(self, generator: torch.Generator) -> dict[str, int]:
        fit = self.fit
        low, high = fit.gamma
        full, mixed, place = torch.rand(3, generator=generator).tolist()
        if full < fit.full_width:
            return self.full
        if mixed >= fit.mixed:
            return self.manifold.sizes(1 - (low + (high - low) * place**fit.gamma_power))
        low, high = fit.mixed_gamma
        places = torch.rand(len(self.full), generator=generator).tolist()
        widths = [1 - (low + (high - low) * place) for place in places]
        return self.manifold.sizes(dict(zip(self.full, widths, strict=True)))
