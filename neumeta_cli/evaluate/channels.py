"""How many channels networks have at each width, attention heads shown as heads."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from neumeta_cli.evaluate.records import Channels, ChannelsRow
from neumeta_cli.resize import across

if TYPE_CHECKING:
    from neumeta_cli.resize import Frame, Sizes
    from neumeta_cli.trace import Clique


def count_channels(frame: "Frame", gammas: Iterable[float]) -> Channels:
    """Channels of the networks with one width for all cliques.

    Args:
        frame: with a scope.
        gammas: 1 − width of each.

    """
    wanted = sorted({0.0, *(round(gamma, 6) for gamma in gammas)})
    sizes = [frame.sizes(1 - gamma) for gamma in wanted]
    found: dict[tuple[str, ...], list[str]] = {}
    for clique in frame.cliques:
        crossing = across(clique, frame.trace.cliques)
        told = tuple(_told(clique, crossing, at) for at in sizes)
        found.setdefault(told, []).append(clique.name)
    rows = [
        ChannelsRow(name=names[0], times=len(names), channels=list(told))
        for told, names in found.items()
    ]
    return Channels(gammas=wanted, rows=rows)


def _told(clique: "Clique", crossing: Sequence["Clique"], sizes: "Sizes") -> str:
    def size(one: "Clique") -> int:
        return sizes.get(one.name, one.channels)

    if clique.copies > 1:
        blocks = [other for other in crossing if other.rows == other.channels == clique.copies]
        return f"{size(blocks[0]) if blocks else clique.copies}×{size(clique)}"
    inside = dict.fromkeys(size(c) for c in crossing if c.copies == clique.channels)
    return f"{size(clique)}×{' and '.join(map(str, inside))}" if inside else str(size(clique))
