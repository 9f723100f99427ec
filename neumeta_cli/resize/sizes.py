"""How many channels each clique has at a width."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from neumeta_cli.errors import NeumetaError
from neumeta_cli.trace import Clique, Trace

TRIAL_WIDTH = 0.5
FEW = 8  # channels
SLACK = 0.1  # of its channels, or a whole one of a coarser clique: how far a clique may be from its
# width for pieces to be equal


def channels_at(clique: Clique, width: float) -> int:
    """How many channels ``clique`` has at ``width`` (kept over full), one at least.

    Raises:
        NeumetaError: the width is no positive, finite number.

    """
    check_width(width)
    return max(1, math.floor(width * clique.channels + 0.5))


def check_width(width: float) -> None:
    """Refuse a width that is no positive, finite number."""
    if not math.isfinite(width) or width <= 0:
        raise NeumetaError(
            f"width {width:g} is not a positive number; 0.5 keeps half of the channels"
        )


def sizes_at(
    trace: Trace, names: Iterable[str], width: float | Mapping[str, float]
) -> dict[str, int]:
    """Channels of the cliques in ``names`` at ``width``, or at a width for each.

    Rounded, but where a forward pass cuts a tensor into equal pieces that consist of different
    cliques (ShuffleNet), as close to that as leaves the pieces equal.

    Raises:
        NeumetaError: the width is no positive, finite number.

    """
    chosen = set(names)
    cliques = [c for c in trace.cliques if c.name in chosen]
    widths = [width if isinstance(width, int | float) else width[c.name] for c in cliques]
    sizes = {c.name: channels_at(c, w) for c, w in zip(cliques, widths, strict=True)}
    per_channel, rest = _equations(trace, cliques)
    if np.allclose(per_channel @ [sizes[c.name] for c in cliques] + rest, 0):
        return sizes
    from scipy.optimize import Bounds, LinearConstraint, milp

    wanted = np.array([w * c.channels for c, w in zip(cliques, widths, strict=True)])
    count = len(cliques)
    # The least sum of distances from the wanted sizes: one more unknown for each distance.
    equal = LinearConstraint(np.hstack([per_channel, np.zeros_like(per_channel)]), -rest, -rest)
    above = LinearConstraint(np.hstack([np.eye(count), -np.eye(count)]), -np.inf, wanted)
    below = LinearConstraint(np.hstack([np.eye(count), np.eye(count)]), wanted, np.inf)
    slack = np.ceil(np.maximum([SLACK * c.channels for c in cliques], _steps(per_channel)))
    lowest, highest = np.maximum(1, np.floor(wanted) - slack), np.ceil(wanted) + slack
    found = milp(
        np.r_[np.zeros(count), np.ones(count)],
        integrality=np.r_[np.ones(count), np.zeros(count)],
        bounds=Bounds(np.r_[lowest, np.zeros(count)], np.r_[highest, np.full(count, np.inf)]),
        constraints=[equal, above, below],
        options={"time_limit": 10},
    )
    if found.x is None:  # then the forward pass will say what is wrong
        return sizes
    return {c.name: round(n) for c, n in zip(cliques, found.x[:count], strict=True)}


def _steps(per_channel: np.ndarray) -> np.ndarray:
    """Channels of each clique that pass for one of the coarsest that it is to stay equal to."""
    own = np.abs(per_channel)
    steps = np.divide(own.max(1, keepdims=True, initial=0), own, out=0 * own, where=own > 0)
    most: np.ndarray = steps.max(0, initial=0)
    return most


def linked_cliques(trace: Trace, names: Iterable[str]) -> list[list[str]]:
    """Cliques that need one width, since a forward pass cuts tensors into equal pieces of them.

    Args:
        trace: of the network.
        names: of the cliques to group.

    Returns:
        The names in groups, most of them of one.

    """
    if not (trace.equal or trace.alike):
        return [[name] for name in names]
    import networkx as nx

    graph: nx.Graph[str] = nx.Graph()
    graph.add_nodes_from(names)
    for pieces in (*trace.equal, *trace.alike):
        nx.add_path(graph, [name for piece in pieces for name in piece if name in graph])
    return [list(group) for group in nx.connected_components(graph)]


def trial_widths(trace: Trace, skew: float) -> dict[str, float]:
    """Widths of all cliques to try a network at: a half, and up to ``skew`` more or less.

    With a skew, a clique of few channels gets a number of them that has no divisor in common with
    theirs, as a half of them may be what a number that does not follow them divides too. What has
    to be equally long gets one width.
    """
    cliques = {c.name: c for c in trace.cliques}
    if not skew:
        return dict.fromkeys(cliques, TRIAL_WIDTH)
    order = {name: n for n, name in enumerate(cliques)}
    widths = {}
    for group in linked_cliques(trace, cliques):
        place = min(order[name] for name in group) % 3
        for name in group:
            widths[name] = _trial_width(cliques[name].channels, skew, place)
    return widths


def _trial_width(channels: int, skew: float, place: int) -> float:
    if not 1 < channels <= FEW:
        return TRIAL_WIDTH + skew * (place - 1)
    coprime = [n for n in range(1, channels) if math.gcd(n, channels) == 1]
    return coprime[-1 - place % len(coprime)] / channels


def _equations(trace: Trace, cliques: list[Clique]) -> tuple[np.ndarray, np.ndarray]:
    """By how much a piece is longer than the next one.

    Returns:
        (equations, cliques) for each channel of a clique, and (equations,) for all the rest.

    """
    column = {c.name: i for i, c in enumerate(cliques)}
    rows, rests = [np.zeros((0, len(cliques)))], [np.zeros(0)]
    for pieces in (*trace.equal, *trace.alike):
        counts, rest = np.zeros((len(pieces), len(cliques))), np.zeros(len(pieces))
        for number, piece in enumerate(pieces):
            for name, places in piece.items():
                if name in column:
                    counts[number, column[name]] = places / cliques[column[name]].channels
                else:
                    rest[number] += places
        rows.append(counts[:-1] - counts[1:])
        rests.append(rest[:-1] - rest[1:])
    return np.concatenate(rows), np.concatenate(rests)
