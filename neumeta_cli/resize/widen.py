"""Having some channels of each clique more than once, which leaves a network's function as it is.

Every layer that reads a channel twice has half of its weights for each (Chen, Goodfellow and
Shlens, *Net2Net*, ICLR 2016).
"""

from collections.abc import Mapping
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
        channels: at least as many as before.

    """
    often, more = divmod(channels, ranks.shape[1])
    counts: np.ndarray = often + (ranks < more)
    return counts


def widened_places(
    shapes: Mapping[str, tuple[int, ...]], trace: "Trace", counts: Mapping[str, np.ndarray]
) -> dict[tuple[str, int], np.ndarray]:
    """Which old index each index along a dimension is a copy of, in widened cliques.

    Copies of a channel follow it: after all places of it that stand together, such as its map where
    maps were flattened one after another.

    Args:
        shapes: of the weights by name.
        trace: of the network that they belong to.
        counts: clique name to how often each of its rows is there, (rows,).

    Returns:
        For each (weight, dimension) with a member in ``counts``, the old indices. A dimension whose
        indices are in several of these cliques at once, such as a head and a place in the head, is
        left out.

    """
    times: dict[tuple[str, int], np.ndarray] = {}
    starts: dict[tuple[str, int], np.ndarray] = {}
    met: dict[tuple[str, int], np.ndarray] = {}
    crossed: set[tuple[str, int]] = set()
    for clique in trace.cliques:
        if clique.name not in counts:
            continue
        for member in clique.members:
            key, size = (member.weight, member.dim), shapes[member.weight][member.dim]
            taken = met.setdefault(key, np.zeros(size, bool))
            if taken[member.positions].any():
                crossed.add(key)
            taken[member.positions] = True
            own = times.setdefault(key, np.ones(size, int))
            own[member.positions] = counts[clique.name].reshape(-1, 1)
            begin = starts.setdefault(key, np.arange(size))
            _note_starts(begin, clique, member)
    return {key: _ordered(own, starts[key]) for key, own in times.items() if key not in crossed}


def _note_starts(begin: np.ndarray, clique: "Clique", member: "Member") -> None:
    """Write down where the places of a channel that stand together begin."""
    row = np.full(len(begin), -1)
    row[member.positions] = np.arange(clique.rows)[:, None]
    follows = np.r_[False, row[1:] == row[:-1]]
    begins = np.maximum.accumulate(np.where(follows, 0, np.arange(len(begin))))
    mine = row >= 0
    begin[mine] = begins[mine]


def _ordered(times: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Places as often as they are there, by where their channel begins, copy, and place."""
    places = np.repeat(np.arange(len(times)), times)
    copy = np.arange(len(places)) - np.repeat(np.cumsum(times) - times, times)
    ordered: np.ndarray = places[np.lexsort((places, copy, starts[places]))]
    return ordered
