"""At which widths a step trains the network."""

from collections.abc import Mapping
from functools import cached_property
from statistics import fmean
from typing import NamedTuple

import torch

from neumeta_cli.cache import REMEMBERED
from neumeta_cli.distill.settings import FitSection
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import Manifold

MOVED = 0.5  # of the anchors, where they are spread
SPREAD = 17  # widths that an anchor is moved to, itself among them: few enough to be kept
RARE = 20  # one in so many networks that are drawn is wider than what counts as the largest
TRIALS = 2  # of widths that differ, before a fit draws them
OTHERS = 56  # sizes that a fit comes back to beside these: anchors, those that are watched
MIXED = REMEMBERED - OTHERS  # networks with widths that differ


class Drawn(NamedTuple):
    """A network that a step trains.

    Attributes:
        sizes: of its cliques.
        weight: of its loss.
        dropped: blocks that it lacks.
        added: how many copies follow a block, by its name.

    """

    sizes: dict[str, int]
    weight: float
    dropped: tuple[str, ...] = ()
    added: tuple[tuple[str, int], ...] = ()

    @property
    def has_depth(self) -> bool:
        """Whether it has other blocks than the checkpoint."""
        return bool(self.dropped or self.added)


class WidthPool:
    """Draws the sizes of a step.

    One network is drawn: with 1 − γ of every clique's channels, γ from a range, or, in a share of
    the steps, with a γ for each clique (or group of cliques that a forward pass needs alike), of
    which one at least lies in that range. To it come the *anchors*, which every step trains (the
    sandwich rule of Yu and Huang, 2019), or a share of the steps.

    Networks with widths that differ come from a pool, since what a network of new sizes needs
    beside its weights takes as long to make as some of its layers to run.

    Args:
        manifold: whose cliques in scope change.
        fit: the recipe's section.
        seed: of the pool.

    Raises:
        NeumetaError: cliques are to have widths of their own, and the network does not run so.

    """

    def __init__(self, manifold: Manifold, fit: FitSection, seed: int = 0) -> None:
        self.manifold, self.fit, self.seed = manifold, fit, seed
        self.full = manifold.frame.full
        self.groups = manifold.frame.linked
        self.anchors = [manifold.frame.sizes(1 - gamma) for gamma in fit.anchors]
        self._mixed: dict[int, dict[str, int]] = {}  # for which a program may have to be solved
        self._tells = bool(fit.mixed) and not manifold.frame.fault(self.full)
        if self._tells:
            self._try_mixed()

    def _try_mixed(self) -> None:
        faults = [self.manifold.frame.fault(self._apart(place)) for place in range(TRIALS)]
        if any(faults):
            raise NeumetaError(
                "this network does not run with a width of its own for each clique "
                f"({next(filter(None, faults))}); set fit.mixed=0"
            )

    def draw(self, generator: torch.Generator) -> list[Drawn]:
        """The networks that the step trains; the one with a random width comes first."""
        drawn = self.draw_one(generator)
        chances = torch.rand(len(self.anchors), generator=generator).tolist()
        shares = self.fit.anchor_shares or [1.0] * len(self.anchors)
        due = zip(self.spread_anchors(generator), chances, shares, strict=True)
        anchors = [sizes for sizes, chance, share in due if chance < share and sizes != drawn]
        first = [Drawn(drawn, self.fit.drawn_weight)] if self.fit.drawn_weight else []
        return first + [Drawn(sizes, 1.0) for sizes in anchors]

    def spread_anchors(self, generator: torch.Generator) -> list[dict[str, int]]:
        """The anchors of a step, or widths near them."""
        if not self.fit.anchor_spread:
            return self.anchors
        count = len(self.anchors)
        moved = torch.rand(count, generator=generator) < MOVED
        places = torch.randint(SPREAD, (count,), generator=generator) / (SPREAD // 2) - 1
        offsets = (self.fit.anchor_spread * moved * places).tolist()
        most = max(self.fit.anchors, default=0.0)
        return [
            self.manifold.frame.sizes(1 - min(most, max(0.0, gamma + offset)))
            for gamma, offset in zip(self.fit.anchors, offsets, strict=True)
        ]

    @cached_property
    def largest(self) -> dict[str, int]:
        """The sizes that a step takes most memory at, but for networks left as they are."""
        low, high = self.fit.gamma
        widest = [max(0.0, gamma - self.fit.anchor_spread) for gamma in self.fit.anchors]
        gammas = [*widest, low + (high - low) / RARE]
        found = [self.manifold.frame.sizes(1 - gamma) for gamma in gammas]
        if self.fit.mixed:
            found.append(self.mixed(max(range(MIXED), key=self._channels)))
        return max(found, key=lambda sizes: sum(sizes.values()))

    def _channels(self, place: int) -> float:
        """Of a network of the pool, before they are rounded."""
        return sum(width * self.full[name] for name, width in self._widths(place).items())

    def draw_one(self, generator: torch.Generator) -> dict[str, int]:
        """Sizes of one network."""
        (low, high), fit = self.fit.gamma, self.fit
        mixed, place = torch.rand(2, generator=generator).tolist()
        if mixed >= fit.mixed:
            return self.manifold.frame.sizes(1 - (low + (high - low) * place**fit.gamma_power))
        return self.mixed(int(torch.randint(MIXED, (), generator=generator)))

    def mixed(self, place: int) -> dict[str, int]:
        """Sizes of a network of the pool; ``place`` below ``MIXED``.

        Where the network does not run at those that were drawn, all cliques get their mean width.
        """
        if place not in self._mixed:
            sizes = self._apart(place)
            if self._tells and self.manifold.frame.fault(sizes):
                sizes = self.manifold.frame.sizes(fmean(self._widths(place).values()))
            self._mixed[place] = sizes
        return self._mixed[place]

    def _apart(self, place: int) -> dict[str, int]:
        return self.manifold.frame.sizes(self._widths(place))

    def _widths(self, place: int) -> Mapping[str, float]:
        generator = torch.Generator().manual_seed(self.seed * MIXED + place)
        (low, high), trained = self.fit.mixed_gamma, self.fit.gamma[1]
        while True:
            places = torch.rand(len(self.groups), generator=generator) ** self.fit.mixed_power
            gammas = (low + (high - low) * places).tolist()
            if min(gammas) <= trained or low >= trained:  # no network beyond it as a whole
                break
        return {
            name: 1 - gamma
            for group, gamma in zip(self.groups, gammas, strict=True)
            for name in group
        }
