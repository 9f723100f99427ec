"""From what operators said to the symmetries of a network: cells, blocks, and their copies.

Two channels may change places if every operator saw both or neither and they lie in the same
blocks (they make up a *cell*). A block may change places with another if the map that it induces
on everything inside, place by place, respects all the rest.

By hand, the example of ``labels``: two heads of two channels, with values v and an output layer. q0
and q1 are one cell, since every operator saw both or neither and both are children of h0; so are q2
and q3. h0 and h1 may change places if what is inside does: q0 goes to q2, q1 to q3, v0 to v2, v1 to
v3. That respects all ties (k0 goes to k2, …), so it is a symmetry. Three orbits come out, which
``find_cliques`` lists as cliques:

    orbit           rows (copies, channels, size)             clique
    in q and k      [[[q2], [q3]], [[q0], [q1]]]              2 channels, 2 copies, order only
    heads           [[[q0, q1], [q2, q3]]] and v likewise     2 channels in blocks of 2
    in v and out    [[[v0], [v1]], [[v2], [v3]]]              2 channels, 2 copies, order only
"""

from dataclasses import dataclass

import numpy as np

from neumeta_cli.trace.labels import FIXED, Atoms
from neumeta_cli.trace.unions import components

ROUNDS = 4  # of refining colours; more would only help structures nested deeper than this


@dataclass(frozen=True, eq=False)
class Orbit:
    """Channels that may change places.

    Attributes:
        rows: (copies, channels, size) channels that move as one; the order within a copy is free.
            The size is 1 unless these are blocks.

    """

    rows: np.ndarray


def _mix(*values: np.ndarray | int) -> np.ndarray:
    """A 64-bit hash of tuples of integers, elementwise (splitmix64)."""
    total = np.asarray(np.uint64(0x9E3779B97F4A7C15))
    with np.errstate(over="ignore"):
        for value in values:
            total = total * np.uint64(0xBF58476D1CE4E5B9) + np.asarray(value).astype(np.uint64)
            total = (total ^ (total >> np.uint64(30))) * np.uint64(0x94D049BB133111EB)
            total = total ^ (total >> np.uint64(31))
    return np.asarray(total, np.uint64)


@dataclass
class _Relations:
    """All block relations over channels, flattened to one row per (parent, child)."""

    relation: np.ndarray
    row: np.ndarray
    parent: np.ndarray
    child: np.ndarray


class Structure:
    """The channels of a trace.

    Attributes:
        channel: atom to channel.
        orbits: of channels that may move and matter, in no order.

    Args:
        atoms: of the trace.
        held: those that stand in weights.

    """

    def __init__(self, atoms: Atoms, held: np.ndarray) -> None:
        self._atoms = atoms
        self.channel = self._solve()
        self._fixed = self.channel[FIXED]
        self._edges = self._flatten()
        self._seen = self._signatures()
        self._colour = self._colours()
        self._by_parent = self._content()
        self._by_child = np.argsort(self._edges.child, kind="stable")
        self._child_starts = np.searchsorted(
            self._edges.child[self._by_child], np.arange(len(self._seen) + 1)
        )
        self._image = np.arange(len(self._seen))
        self.orbits = self._find_orbits(np.unique(self.channel[held]))

    def _solve(self) -> np.ndarray:
        """Channels, once no relation implies a further tie."""
        a, b = (
            ([*side] for side in zip(*self._atoms.ties, strict=True))
            if self._atoms.ties
            else ([], [])
        )
        channel: np.ndarray
        while True:
            rows = np.concatenate([*a, np.zeros(1, np.int64)])
            cols = np.concatenate([*b, np.zeros(1, np.int64)])
            size = self._atoms.count
            channel = components(size, rows, cols)
            more = self._implied(channel)
            if not len(more):
                return channel
            # Ties between channels are ties between their first atoms.
            first = np.zeros(channel.max() + 1, np.int64)
            first[channel[::-1]] = np.arange(size)[::-1]
            a.append(first[more[:, 0]])
            b.append(first[more[:, 1]])

    def _implied(self, channel: np.ndarray) -> np.ndarray:
        """Pairs of channels that relations force together."""
        fixed = channel[FIXED]
        pairs: list[np.ndarray] = []
        keys: list[tuple[np.ndarray, np.ndarray]] = []
        for parents, children in self._atoms.blocks:
            p, c = channel[parents], channel[children]
            still = (c == c[:1]).all(0)
            if still.all():
                continue
            c = c[:, ~still]
            alone = (c == c[:, :1]).all(1)
            pairs.append(np.stack([p[alone], c[alone, 0]], 1))
            p, c = p[~alone], c[~alone]
            key = _content_keys(c)
            _, first, same = np.unique(key, return_index=True, return_inverse=True)
            stuck = (c == fixed).any(1) | self._in_several_blocks(p[first][same], c)
            pairs.append(_against(p[stuck], fixed))
            keys.append((key, p))
        if keys:
            key = np.concatenate([k for k, _ in keys])
            parent = np.concatenate([p for _, p in keys])
            moving = parent != fixed
            key, parent = key[moving], parent[moving]
            order = np.argsort(key, kind="stable")
            key, parent = key[order], parent[order]
            same = key[1:] == key[:-1]
            pairs.append(np.stack([parent[1:][same], parent[:-1][same]], 1))
        found: np.ndarray = np.concatenate(pairs) if pairs else np.zeros((0, 2), np.int64)
        apart: np.ndarray = found[found[:, 0] != found[:, 1]]
        return apart

    def _in_several_blocks(self, p: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Rows that share a channel with another block: their places tell them apart."""
        block, flat = np.repeat(p, c.shape[1]), c.ravel()
        order = np.lexsort((block, flat))
        flat, block = flat[order], block[order]
        clash = (flat[1:] == flat[:-1]) & (block[1:] != block[:-1])
        return np.asarray(np.isin(c, flat[1:][clash]).any(1))

    def _flatten(self) -> _Relations:
        parts: list[tuple[np.ndarray, ...]] = []
        for number, (parents, children) in enumerate(self._atoms.blocks):
            p, c = self.channel[parents], self.channel[children]
            rows, columns = c.shape
            parts.append(
                (
                    np.full(c.size, number),
                    np.repeat(np.arange(rows), columns),
                    np.repeat(p, columns),
                    c.ravel(),
                )
            )
        if not parts:
            return _Relations(*(np.zeros(0, np.int64) for _ in range(4)))
        flat = [np.concatenate(column) for column in zip(*parts, strict=True)]
        apart = flat[2] != flat[3]  # a block of one channel is that channel
        return _Relations(*(column[apart] for column in flat))

    def _signatures(self) -> np.ndarray:
        """Per channel a hash of all the arrays in which operators saw it; 0 for fixed ones."""
        seen = np.zeros(self.channel.max() + 1, np.uint64)
        arrays = self._atoms.occurrences
        codes = np.random.default_rng(0).integers(1, 2**63, len(arrays), np.uint64)
        if arrays:
            flat = np.concatenate([a.ravel() for a in arrays])
            code = np.repeat(codes, [a.size for a in arrays])
            np.add.at(seen, self.channel[flat], code)
        seen[self._fixed] = 0
        return seen

    def _block_names(self, relation: np.ndarray, row: np.ndarray, parent: np.ndarray) -> np.ndarray:
        """Hashes that name blocks; fixed ones are told apart by their place."""
        fixed = parent == self._fixed
        return np.where(fixed, _mix(relation, row, 7), _mix(relation, parent, 3))

    def _colours(self) -> np.ndarray:
        """Hashes of channels that are equal wherever blocks could possibly change places."""
        e, colour = self._edges, self._seen.copy()
        for _ in range(ROUNDS):
            up = np.where(
                e.parent == self._fixed,
                _mix(e.relation, e.row, 5),
                _mix(e.relation, colour[e.parent], 1),
            )
            down = _mix(e.relation, colour[e.child], 2)
            total = np.zeros_like(colour)
            np.add.at(total, e.child, up)
            np.add.at(total, e.parent, down)
            colour = np.where(self._seen == 0, 0, _mix(colour, total))
        return colour

    def _find_orbits(self, held: np.ndarray) -> list[Orbit]:
        """Orbits of channels that stand in weights, or of blocks of such."""
        e, number = self._edges, len(self._seen)
        blocks = np.zeros(number, np.uint64)  # in which blocks a channel lies
        np.add.at(blocks, e.child, self._block_names(e.relation, e.row, e.parent))
        is_parent = np.zeros(number, bool)
        is_parent[e.parent] = True
        wanted = np.zeros(number, bool)
        wanted[held] = True
        for _ in range(ROUNDS):
            wanted[e.parent[wanted[e.child]]] = True
        movable = np.flatnonzero((self._seen != 0) & wanted)
        order = movable[np.lexsort((movable, blocks[movable], self._colour[movable]))]
        same = (self._colour[order[1:]] == self._colour[order[:-1]]) & (
            blocks[order[1:]] == blocks[order[:-1]]
        )
        classes: dict[tuple[int, tuple[int, ...]], list[np.ndarray]] = {}
        for cell in np.split(order, np.flatnonzero(~same) + 1):
            if len(cell) > 1:
                for rows in self._rows(cell, bool(is_parent[cell[0]])):
                    key = (int(self._colour[cell[0]]), rows.shape)
                    classes.setdefault(key, []).append(rows)
        return [Orbit(np.stack(copies)) for copies in classes.values()]

    def _rows(self, cell: np.ndarray, parents: bool) -> list[np.ndarray]:
        """A cell as rows of what moves together; blocks that may not move are left out."""
        if not parents:
            return [cell[:, None]]
        found: list[np.ndarray] = []
        rest = list(range(len(cell)))
        for upwards in (False, True):
            inside = {i: self._closure(int(cell[i]), upwards) for i in rest}
            left: list[int] = []
            while rest:  # classes of blocks that may change places
                first = rest[0]
                same = [i for i in rest[1:] if self._exchangeable(inside[first], inside[i])]
                if same:
                    rows = np.stack([inside[i] for i in (first, *same)])
                    found.append(rows[:, (rows != rows[:1]).any(0)])
                else:
                    left.append(first)
                rest = [i for i in rest[1:] if i not in same]
            rest = left
        return found

    def _closure(self, block: int, upwards: bool) -> np.ndarray:
        """A block and everything in it, in an order that other blocks share.

        Upwards, also the other blocks that lie wholly inside, such as a key's channel over the
        queries' that it meets.
        """
        found, known = [block], {block}
        start = 0
        while start < len(found):
            for x in found[start:]:  # grows as it is read
                fresh = [c for c in self._by_parent.get(x, ()) if c not in known]
                found += dict.fromkeys(fresh)
                known.update(fresh)
                start += 1
            if not upwards:
                continue
            inside = [p for p in self._parents(np.array(found)) if p not in known]
            inside = [p for p in inside if known.issuperset(self._by_parent[p])]
            found += inside
            known.update(inside)
        return np.array(found)

    def _parents(self, x: np.ndarray) -> list[int]:
        """Movable blocks that these channels lie in, each once, in their order."""
        edges, _ = self._edges_up(x)
        parents = self._edges.parent[edges]
        return list(dict.fromkeys(parents[parents != self._fixed].tolist()))

    def _edges_up(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Edges from channels to their blocks, and which of ``x`` each belongs to."""
        starts = self._child_starts
        counts = starts[x + 1] - starts[x]
        owner = np.repeat(np.arange(len(x)), counts)
        offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._by_child[np.repeat(starts[x], counts) + offset], owner

    def _content(self) -> dict[int, list[int]]:
        """Block to its children, relation by relation and place by place."""
        e = self._edges
        moving = np.flatnonzero(e.parent != self._fixed)
        order = moving[np.argsort(e.parent[moving], kind="stable")]
        parents, starts = np.unique(e.parent[order], return_index=True)
        parts = np.split(e.child[order], starts[1:]) if len(parents) else []
        return dict(zip(parents.tolist(), (p.tolist() for p in parts), strict=True))

    def _exchangeable(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Whether the map from one block's content to the other's keeps all that operators saw."""
        if len(a) != len(b) or (self._seen[a] != self._seen[b]).any():
            return False
        moved = a != b
        if len(np.unique(np.concatenate([a[moved], b[moved]]))) != 2 * moved.sum():
            return False
        a, b = a[moved], b[moved]
        self._image[a], self._image[b] = b, a
        before, after = self._blocks_of(a, self._image), self._blocks_of(b, None)
        self._image[a], self._image[b] = a, b
        return bool((before == after).all())

    def _blocks_of(self, x: np.ndarray, image: np.ndarray | None) -> np.ndarray:
        """Per channel a hash of the blocks that it lies in, or of these blocks' images."""
        e = self._edges
        edges, owner = self._edges_up(x)
        parent = e.parent[edges] if image is None else image[e.parent[edges]]
        key = self._block_names(e.relation[edges], e.row[edges], parent)
        total = np.zeros(len(x), np.uint64)
        np.add.at(total, owner, key)
        return total


def _content_keys(c: np.ndarray) -> np.ndarray:
    """Per row a hash of the set of channels in it."""
    ranked = np.sort(c, 1)
    new = np.ones_like(ranked, bool)
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    hashes: np.ndarray = np.where(new, _mix(ranked), 0).sum(1, dtype=np.uint64)
    return hashes


def _against(channels: np.ndarray, fixed: int) -> np.ndarray:
    return np.stack([channels, np.full(len(channels), fixed)], 1)
