"""At which depths a step trains the network."""

import math
from collections.abc import Mapping
from functools import cached_property

import torch

from neumeta_cli.distill.draws import Drawn, WidthPool
from neumeta_cli.distill.settings import FitSection
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import Manifold
from neumeta_cli.reporting import counted
from neumeta_cli.resize import added_blocks

EACH = 0.5  # of the networks drawn: each run has a depth of its own; and so many are narrow too
APART = 24  # networks whose runs have depths of their own, from which they come
LOWEST = 0.5  # of the steps: they train the shortest network at full width instead


class DepthPool:
    """Draws networks with other blocks, one for each step, beside those of ``WidthPool``.

    In half of the steps it is the shortest one of the range at full width, in the others one of a
    depth drawn uniformly from the range. Half of these have a depth of their own in each run (from
    a pool of few), and half are as narrow as a network that ``WidthPool`` draws. Above 1, half of
    the shortest make room for the longest, which like all with more blocks are narrow: at full
    width they begin as the checkpoint. What is drawn depends on seed and step alone, so that a fit
    draws the same widths with and without it.

    Args:
        manifold: whose INR knows in which order blocks go.
        widths: draws how narrow they are.
        fit: the recipe's section.
        seed: of what is drawn.

    Raises:
        NeumetaError: the fit is to train depth, and no block can go, or none can be added.

    """

    def __init__(self, manifold: Manifold, widths: WidthPool, fit: FitSection, seed: int) -> None:
        self.manifold, self.widths, self.fit, self.seed = manifold, widths, fit, seed
        if fit.depths and fit.depths[0] < 1 and not manifold.inr.depths.blocks:
            raise NeumetaError(
                "fit.depths: no block of this network can go (see neumeta trace); leave it out"
            )
        if fit.depths and fit.depths[1] > 1:
            if not manifold.inr.depths.added or not manifold.inr.settings.chooses:
                raise NeumetaError(f"fit.depths above 1: {_why_none(manifold, fit.depths[1])}")
        elif manifold.inr.settings.added:
            raise NeumetaError(
                "inr.added: nothing trains blocks that are added; let fit.depths go above 1"
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
            if low == 1 or (high > 1 and lowest < LOWEST / 2):
                narrower = self.widths.draw_one(generator)
                return [self.network(narrower, dict.fromkeys(self._blocks, high))]
            return [self.network(full, dict.fromkeys(self._blocks, low))]
        drawn = [depth] * len(self._blocks)
        if each < EACH:
            place = int(torch.randint(APART, (), generator=generator))
            own = torch.Generator().manual_seed(self.seed * APART + place)
            drawn = torch.rand(len(drawn), generator=own).tolist()
        depths = {run: low + (high - low) * at for run, at in zip(self._blocks, drawn, strict=True)}
        network = self.network(full, depths)
        if narrow < EACH or (network.added and not network.dropped):  # wide it is the checkpoint
            network = network._replace(sizes=self.widths.draw_one(generator))
        return [network] if network.has_depth else []

    @property
    def largest(self) -> list[Drawn]:
        """The networks that take most memory: that without the first block, and the longest one.

        Of the first more is learnt, and the other has more blocks.
        """
        if not self.fit.depths:
            return []
        (low, high), full = self.fit.depths, self.widths.full
        short = Drawn(full, 1.0, self.manifold.inr.depths.blocks[:1])
        long = self.network(full, dict.fromkeys(self._blocks, high))
        return [*([short] if low < 1 else []), *([long] if high > 1 else [])]

    def network(self, sizes: dict[str, int], depths: Mapping[str, float]) -> Drawn:
        """The network with a depth (blocks over the checkpoint's) for each run."""
        counts = {name: round(self._blocks[name] * depth) for name, depth in depths.items()}
        missing = {name: self._blocks[name] - count for name, count in counts.items()}
        gone = self.manifold.inr.depths.gone(missing)
        most, more = self.manifold.inr.depths.added, added_blocks(self.manifold.frame.runs, counts)
        added = {block: min(count, most[block]) for block, count in more.items() if block in most}
        return Drawn(sizes, 1.0, gone, tuple(added.items()))

    @cached_property
    def _blocks(self) -> dict[str, int]:
        """How many blocks each run has, of those that can lack some or have more."""
        depths, runs = self.manifold.inr.depths, self.manifold.frame.runs
        able = [run for run in runs if run.name in depths.order or run.last in depths.added]
        return {run.name: len(run.blocks) for run in able}


def _why_none(manifold: Manifold, depth: float) -> str:
    """Why a fit up to this depth would train no block that the checkpoint lacks."""
    kind, runs = manifold.inr.settings, [run for run in manifold.frame.runs if run.last]
    if not kind.chooses:
        return (
            f"INRs of kind {kind.kind} learn nothing of blocks that the checkpoint lacks; the kind "
            "selected does"
        )
    if not runs:
        return "no block can be added to this network (see neumeta trace)"
    longest = max(len(run.blocks) for run in runs)
    if all(run.count(depth) <= len(run.blocks) for run in runs):
        return (
            f"{depth:g} adds none to runs of at most {counted(longest, 'block')}; "
            f"{math.ceil(100 + 100 / longest) / 100:g} does"
        )
    return "nothing in scope lets blocks that are added do anything; set scope=all"
