"""Blocks, such as attention heads, and the channels inside them: which of both have a width."""

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace

import numpy as np

from neumeta_cli.trace import Clique, Trace


def blocks_first(trace: Trace) -> Trace:
    """The trace with blocks as the carriers of width, and the channels inside them only ordered.

    What is to stay equally long is then told by the blocks. Of blocks in blocks the outer ones
    carry; and where something of one copy lies across, it is a grid (ShuffleNet) and stays.
    """
    inside = _inside(trace)
    of = {c.name: block for block, cs in inside.items() for c in cs}
    flipped = inside.keys() | of.keys()

    def by_blocks(piece: Mapping[str, int]) -> Mapping[str, int]:
        places: Counter[str] = Counter()
        for name, count in piece.items():
            places[of.get(name, name)] += count
        return dict(places)

    equal, alike = (
        tuple(tuple(map(by_blocks, pieces)) for pieces in sets)
        for sets in (trace.equal, trace.alike)
    )
    return replace(
        trace,
        equal=equal,
        alike=alike,
        cliques=tuple(
            replace(c, order_only=c.order_only != (c.name in flipped)) for c in trace.cliques
        ),
    )


def blocks_too(trace: Trace) -> Trace:
    """The trace where blocks have a width, and the channels inside them have one too.

    Pieces of equally many blocks are equally long where the channels inside them are equally many,
    as the trace says. What is to be as long as all blocks together is left out: that would be a
    product of two sizes.
    """
    inside = _inside(trace)
    of = {c.name for cs in inside.values() for c in cs}
    cliques = (replace(c, order_only=c.order_only and c.name not in inside) for c in trace.cliques)
    alike = (pieces for pieces in trace.alike if not any(of & piece.keys() for piece in pieces))
    return replace(trace, alike=tuple(alike), cliques=tuple(cliques))


def _inside(trace: Trace) -> dict[str, list[Clique]]:
    """Blocks of one copy whose order alone would change, and the cliques that lie in them."""
    rest = [c for c in trace.cliques if not c.order_only]
    blocks = [c for c in trace.cliques if c.order_only and c.copies == 1]
    inside = {block.name: across(block, rest) for block in blocks}
    return {name: cs for name, cs in inside.items() if cs and all(c.copies > 1 for c in cs)}


def kept_alike(trace: Trace, names: Set[str]) -> Trace:
    """The trace where the cliques in ``names`` that have equally many rows keep one width.

    They only changed together: attention of a single head, which has no blocks to be told by. Sets
    whose cliques are all told of already stay as they are.
    """
    told = {name for pieces in trace.alike for piece in pieces for name in piece}
    by_rows: dict[int, list[str]] = {}
    for clique in trace.cliques:
        if clique.name in names and not clique.order_only:
            by_rows.setdefault(clique.rows, []).append(clique.name)
    new = {rows: found for rows, found in by_rows.items() if len(found) > 1 and set(found) - told}
    sets = (tuple({name: rows} for name in found) for rows, found in new.items())
    return replace(trace, alike=(*trace.alike, *sets))


def across(clique: Clique, others: Iterable[Clique]) -> list[Clique]:
    """Which of the others stand in places of this one."""
    places = {(m.weight, m.dim): m.positions for m in clique.members}

    def meets(other: Clique) -> bool:
        return any(
            (m.weight, m.dim) in places and np.isin(m.positions, places[m.weight, m.dim]).any()
            for m in other.members
        )

    return [c for c in others if c is not clique and meets(c)]
