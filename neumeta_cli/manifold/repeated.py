"""Weights of the same few sizes, again and again."""

from collections.abc import Callable, Iterable

from torch import Tensor

from neumeta_cli.cache import Cache
from neumeta_cli.manifold.generated import turned_back
from neumeta_cli.manifold.inr import Noise
from neumeta_cli.manifold.manifold import Manifold
from neumeta_cli.resize import Sizes

Planned = Callable[[], list[Tensor]] | None


class RepeatedDraws:
    """Evaluates an INR at sizes that come again, as a fit does, by plans that it keeps.

    Args:
        manifold: of which nothing but its INR's parameters changes as long as this is used.

    """

    def __init__(self, manifold: Manifold) -> None:
        self.manifold = manifold
        self._planned: Cache[Planned] = Cache()

    def generate(
        self, sizes: Sizes, noise: Noise | None = None, trained: Iterable[str] | None = None
    ) -> dict[str, Tensor]:
        """What ``Manifold.generate`` gives."""
        if trained is None and (noise is None or not (noise.channels or noise.sizes)):
            inr, targets = self.manifold.inr, self.manifold.targets(sizes)
            key = (inr.device, *sizes.items())
            planned = self._planned.get(key, lambda: inr.planned(targets))
            if planned is not None:
                return turned_back(targets, planned())
        return self.manifold.generate(sizes, noise, trained)
