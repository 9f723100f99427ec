"""At which depths a step trains the network."""

from collections.abc import Mapping
from functools import cached_property

import torch

from neumeta_cli.distill.draws import Drawn, WidthPool
from neumeta_cli.distill.settings import FitSection
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import Manifold

EACH = 0.5  # of the networks drawn: each run has a depth of its own; and so many are narrow too
APART = 24  # networks whose runs have depths of their own, from which they come
LOWEST = 0.5  # of the steps: they train the shortest network at full width instead


class DepthPool:
    """Draws networks that lack blocks, one for each step, beside those of ``WidthPool``.

    In half of the steps it is the shortest one of the range at full width, in the others one of a
    depth drawn uniformly from it. Half of these have a depth of their own in each run (from a pool
    of few), and half are as narrow as a network that ``WidthPool`` draws. What is drawn depends on
    seed and step alone, so that a fit draws the same widths with and without it.

    Args:
        manifold: whose INR knows in which order blocks go.
        widths: draws how narrow they are.
        fit: the recipe's section.
        seed: of what is drawn.

    Raises:
        NeumetaError: the fit is to train depth, and no block can go.

    """

    def __init__(self, manifold: Manifold, widths: WidthPool, fit: FitSection, seed: int) -> None:
        self.manifold, self.widths, self.fit, self.seed = manifold, widths, fit, seed
        if fit.depths and not manifold.inr.depths.blocks:
            raise NeumetaError(
                "fit.depths: no block of this network can go (see neumeta trace); leave it out"
            )
        if fit.depths and fit.views:
            raise NeumetaError("fit.depths and fit.views do not go together; set fit.views=0")

    def draw(self, step: int) -> list[Drawn]:
        """The network of a step; none if the fit does not train depth."""
        if not self.fit.depths:
            return []
        (low, high), full = self.fit.depths, self.widths.full
        generator = torch.Generator().manual_seed(self.seed)
        generator.manual_seed(int(torch.randint(1 << 62, (), generator=generator)) + step)
        lowest, each, narrow, depth = torch.rand(4, generator=generator).tolist()
        if lowest < LOWEST:
            return [Drawn(full, 1.0, self.lacking(dict.fromkeys(self._blocks, low)))]
        drawn = [depth] * len(self._blocks)
        if each < EACH:
            place = int(torch.randint(APART, (), generator=generator))
            own = torch.Generator().manual_seed(self.seed * APART + place)
            drawn = torch.rand(len(drawn), generator=own).tolist()
        depths = {run: low + (high - low) * at for run, at in zip(self._blocks, drawn, strict=True)}
        sizes = self.widths.draw_one(generator) if narrow < EACH else full
        gone = self.lacking(depths)
        return [Drawn(sizes, 1.0, gone)] if gone else []

    @property
    def largest(self) -> list[Drawn]:
        """The network that takes most memory: at full width, without the first block that goes."""
        if not self.fit.depths:
            return []
        return [Drawn(self.widths.full, 1.0, self.manifold.inr.depths.blocks[:1])]

    def lacking(self, depths: Mapping[str, float]) -> tuple[str, ...]:
        """The blocks that a network lacks, with a depth (kept over all blocks) for each run."""
        missing = {run: self._blocks[run] * (1 - depth) for run, depth in depths.items()}
        return self.manifold.inr.depths.gone({run: round(n) for run, n in missing.items()})

    @cached_property
    def _blocks(self) -> dict[str, int]:
        """How many blocks each run has, of those that can lack some."""
        order = self.manifold.inr.depths.order
        return {r.name: len(r.blocks) for r in self.manifold.frame.runs if r.name in order}
