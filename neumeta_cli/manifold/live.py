"""A network that changes its width while it serves."""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from neumeta_cli.cache import Cache
from neumeta_cli.errors import NeumetaError

CACHED = 8  # networks kept
Width = float | Mapping[str, float]


class LiveNetwork(nn.Module):
    """A network in evaluation mode whose width ``morph`` sets.

    It keeps the networks of the widths last used, so that going back to one takes microseconds;
    each costs the memory of its weights. Any thread may call it while another one morphs it: a
    forward pass that has begun goes on with the weights with which it began. ``to`` moves what is
    kept, and networks sampled later follow; call it while nothing else runs.

    Args:
        sample: gives the network of the ``sizes`` of cliques.
        sizes: of the cliques at a width, or at a width for each.
        cached: how many networks are kept.

    Raises:
        NeumetaError: fewer than one is to be kept.

    """

    def __init__(
        self,
        sample: Callable[..., nn.Module],
        sizes: Callable[[Width], dict[str, int]],
        cached: int,
    ) -> None:
        if cached < 1:
            raise NeumetaError(f"a live network keeps one network at least, not {cached}")
        super().__init__()
        self._sample, self._sizes = sample, sizes
        # Not registered: state_dict is the network's in use.
        self._kept: Cache[nn.Module] = Cache(cached, None)
        self._lock = threading.Lock()
        self.width: Width = 1.0
        self.train(False)

    def morph(self, width: Width) -> "LiveNetwork":
        """Change the width; a network that is not kept is sampled first.

        Args:
            width: kept over full channels of every clique in scope, or one for each by name.

        Raises:
            NeumetaError: the width is no positive, finite number.

        """
        with self._lock:
            self.network, self.width = self._at(width), width
        return self

    def prepare(self, widths: Iterable[Width]) -> "LiveNetwork":
        """Sample these widths, so that morphing to those that are kept takes no time."""
        for width in widths:
            with self._lock:
                self._at(width)
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.network(*args, **kwargs)

    def _at(self, width: Width) -> nn.Module:
        sizes = self._sizes(width)
        key = tuple(sizes.items())
        return self._kept.get(key, lambda: self._placed(sizes))

    def _placed(self, sizes: Mapping[str, int]) -> nn.Module:
        """A sampled network where the one in use is, and in its precision."""
        network = self._sample(sizes=sizes)
        in_use = next(self.parameters(), None)
        return network if in_use is None else network.to(in_use)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LiveNetwork":
        with self._lock:
            for network in dict.fromkeys([self.network, *self._kept]):
                network._apply(fn, recurse)
        return self
