"""Having some channels of each clique more than once, which leaves a network's function as it is.

Every layer that reads a channel twice has half of its weights for each (Chen, Goodfellow and
Shlens, *Net2Net*, ICLR 2016).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from neumeta_cli.trace import Clique, Member, Trace


def channel_counts(ranks: np.ndarray, channels: int) -> np.ndarray:
    """How often each row of a clique is there when every copy of it has ``channels`` channels.

    Six channels of four: the two of largest norm twice::

        >>> channel_counts(np.array([[2, 0, 3, 1]]), 6)
        array([[1, 2, 1, 2]])

    Args:
        ranks: (copies, channels before), 0 for the largest norm.
        channels: of each copy; where there are fewer than before, the smallest are there no more.

    """
    often, more = divmod(channels, ranks.shape[1])
    counts: np.ndarray = often + (ranks < more)
    return counts


def widened_places(
    shapes: Mapping[str, tuple[int, ...]], trace: "Trace", counts: Mapping[str, np.ndarray]
) -> dict[tuple[str, int], np.ndarray]:
    """Which old index each index along a dimension is a copy of, in cliques of other sizes.

    Copies of a channel follow it: after all places of it that stand together, such as its map where
    maps were flattened one after another. Where a place is in several of these cliques at once,
    such as a head and a place in the head, it is there as often as both say together, and copies of
    a head follow all of the head.

    Args:
        shapes: of the weights by name.
        trace: of the network that they belong to.
        counts: clique name to how often each of its rows is there, (rows,), which may be never.

    Returns:
        For each (weight, dimension) with a member in ``counts``, the old indices.

    """
    along: dict[tuple[str, int], list[_Copies]] = {}
    for clique in trace.cliques:
        if clique.name in counts:
            for member in clique.members:
                size = shapes[member.weight][member.dim]
                copies = _copies(size, clique, member, counts[clique.name])
                along.setdefault((member.weight, member.dim), []).append(copies)
    return {key: _ordered(found) for key, found in along.items()}


@dataclass(frozen=True)
class _Copies:
    """Copies of the channels of a clique along a dimension, for each of its places.

    Attributes:
        inside: whether the place is in the clique.
        begin: where the places of its channel that stand together begin; elsewhere the place.
        times: how often it is there; elsewhere once.

    """

    inside: np.ndarray
    begin: np.ndarray
    times: np.ndarray

    @property
    def together(self) -> int:
        """The most places of a channel that stand together."""
        return int(np.bincount(self.begin[self.inside]).max(initial=0))

    def joined(self, other: "_Copies") -> "_Copies":
        """With those of a clique that is at other places; elsewhere they stand as in the other."""
        begin = np.where(self.inside, self.begin, other.begin)
        times = np.where(self.inside, self.times, other.times)
        return _Copies(self.inside | other.inside, begin, times)


def _copies(size: int, clique: "Clique", member: "Member", counts: np.ndarray) -> _Copies:
    row, times = np.full(size, -1), np.ones(size, int)
    rows = np.arange(clique.rows)  # a channel of all copies, where they lie side by side, is one
    row[member.positions] = (rows % clique.channels if clique.channels > 1 else rows)[:, None]
    times[member.positions] = counts.reshape(-1, 1)
    follows = np.r_[False, row[1:] == row[:-1]] & (row >= 0)
    begin = np.maximum.accumulate(np.where(follows, 0, np.arange(size)))
    return _Copies(row >= 0, begin, times)


def _ordered(found: list[_Copies]) -> np.ndarray:
    """Places as often as they are there: by channel of the outermost clique, copy, and so on."""
    levels: list[_Copies] = []
    for copies in sorted(found, key=lambda one: -one.together):  # blocks before what is in them
        crossed = [bool((level.inside & copies.inside).any()) for level in levels]
        if all(crossed):
            levels.append(copies)
        else:
            free = crossed.index(False)
            levels[free] = levels[free].joined(copies)
    times = np.prod([level.times for level in levels], axis=0)
    places = np.repeat(np.arange(len(times)), times)
    copy = np.arange(len(places)) - np.repeat(np.cumsum(times) - times, times)
    keys, begin = [places], np.arange(len(times))
    for level in reversed(levels):
        begin = np.where(level.inside, level.begin, begin)
        copy, own = np.divmod(copy, level.times[places])
        keys += [own, begin[places]]
    ordered: np.ndarray = places[np.lexsort(keys)]
    return ordered
