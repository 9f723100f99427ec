"""Cliques: the (weight, dimension) pairs that must share one channel order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from neumeta_cli.trace.recorder import Operator, Recording, Refusal
from neumeta_cli.trace.symmetry import Orbit, Structure

if TYPE_CHECKING:
    import networkx as nx

Pieces = tuple[tuple[Mapping[str, int], ...], ...]
"""Sets of pieces that are equally long; for each the places in each clique."""

FEW = 4  # channels below which a block's own number rather than theirs is the width


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of one weight.

    Attributes:
        weight: name of the parameter or buffer.
        dim: dimension that the clique's channels run along.
        positions: (copies · channels, repeats) indices along ``dim``; row i holds the places of
            channel i. A slice of the dimension starts at an offset; a flattened feature map
            repeats each channel height × width times; a head is one channel of many places.

    """

    weight: str
    dim: int
    positions: np.ndarray

    @property
    def offset(self) -> int:
        return int(self.positions.min())

    @property
    def repeat(self) -> int:
        return int(self.positions.shape[1])

    def __str__(self) -> str:
        extra = f" from {self.offset}" if self.offset else ""
        extra += f" in blocks of {self.repeat}" if self.repeat > 1 else ""
        return f"{self.weight}[{self.dim}]{extra}"


@dataclass(frozen=True, eq=False)
class Clique:
    """Tied dimensions: one permutation, and one width, for all members.

    A convolution makes 3 channels, whose maps of 2×2 are flattened for a linear layer. Its columns
    0 to 3 read channel 0, 4 to 7 channel 1, 8 to 11 channel 2::

        >>> made = Member("conv.weight", 0, np.arange(3)[:, None])
        >>> read = Member("fc.weight", 1, np.arange(12).reshape(3, 4))
        >>> print(*Clique("conv", 3, (made, read)).members, sep=", ")
        conv.weight[0], fc.weight[1] in blocks of 4

    Attributes:
        name: the module that first makes these channels.
        channels: how many there are in the checkpoint.
        members: the tied dimensions, in the order in which the forward pass meets them.
        copies: sets of so many channels that are permuted each on its own but have one width,
            such as the channels of each attention head.
        order_only: other cliques across this one carry the width, as the channels inside heads do
            for the heads.
        constants: like ``members``, for buffers that no checkpoint holds and whose values are the
            same for all channels.
        held: why the clique cannot change width, empty if it can.

    """

    name: str
    channels: int
    members: tuple[Member, ...]
    copies: int = 1
    order_only: bool = False
    constants: tuple[Member, ...] = ()
    held: str = ""

    @property
    def rows(self) -> int:
        """Channels of all copies: the rows of members' positions."""
        return self.channels * self.copies

    @property
    def interleaved(self) -> bool:
        """Whether copies lie between one another's channels: channels × copies."""
        if min(self.copies, self.channels) == 1:
            return False
        rows = [m.positions[:, 0].reshape(self.copies, self.channels) for m in self.members]
        return any(abs(at[0, 1] - at[0, 0]) > abs(at[1, 0] - at[0, 0]) for at in rows)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "channels": self.channels,
            "copies": self.copies,
            "order_only": self.order_only,
            "held": self.held,
            "members": [
                {"weight": m.weight, "dim": m.dim, "offset": m.offset, "repeat": m.repeat}
                for m in self.members
            ],
        }


@dataclass(frozen=True)
class Patch:
    """A whole number in a module that a forward pass reads and that follows a clique's width.

    Attributes:
        module: name of the module.
        attribute: name of the attribute.
        place: index in it if it is a tuple or list.
        value: at full width.
        clique: the clique with whose channels the number grows, or
        weight, dim: the dimension with whose size it grows.

    """

    module: str
    attribute: str
    place: int | None
    value: int
    clique: str = ""
    weight: str = ""
    dim: int = 0


@dataclass(frozen=True, eq=False)
class Trace:
    """The dependency graph of a network.

    A perceptron's 8 hidden units are rows of one matrix and columns of the next. Whether they are
    put into another order or become fewer, both follow, and so do the first layer's biases::

        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> for clique in trace_model(network, (4,)).cliques:
        ...     print(f"{clique.name}: {clique.channels} of", *clique.members)
        0: 8 of 0.weight[0] 0.bias[0] 2.weight[1]

    Attributes:
        operators: in the order in which they ran.
        cliques: in the order of the forward pass.
        shapes: name to shape of every weight that the forward pass uses, in that order.
        refusals: operators that no rule covers; what they touch is fixed.
        output_shapes: shapes of the outputs for a batch of two.
        constants: name to shape of the buffers that ``Clique.constants`` speaks of.
        equal: sets of pieces, as of a chunked tensor, that must stay equally long; for each piece
            how many of its places lie in each clique, and under "" how many in none.
        alike: the same for what often has to be, as a stream and the heads that it is divided by.
        patches: what else follows the width of a clique.

    """

    operators: tuple[Operator, ...]
    cliques: tuple[Clique, ...]
    shapes: Mapping[str, tuple[int, ...]]
    refusals: tuple[Refusal, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    constants: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    equal: Pieces = ()
    alike: Pieces = ()
    patches: tuple[Patch, ...] = ()

    @cached_property
    def graph(self) -> "nx.DiGraph":
        """One node an operator, by its place, with its attributes; an edge where one reads."""
        import networkx as nx

        graph = nx.DiGraph()
        for place, operator in enumerate(self.operators):
            graph.add_node(place, **vars(operator))
            graph.add_edges_from((before, place) for before in operator.after)
        return graph

    def parameters_in(self, clique: Clique) -> int:
        """Weights that ``clique`` governs: the sizes of its members, each tensor once."""
        names = {m.weight for m in clique.members}
        return sum(int(np.prod(self.shapes[name])) for name in names)

    def share_governed(self) -> float:
        """The share of all weights that lie inside some clique."""
        names = {m.weight for clique in self.cliques for m in clique.members}
        sizes = {name: int(np.prod(shape)) for name, shape in self.shapes.items()}
        return sum(sizes[name] for name in names) / max(1, sum(sizes.values()))

    def as_dict(self) -> dict[str, Any]:
        """Cliques and refusals as plain JSON types."""
        return {
            "cliques": [c.as_dict() | {"parameters": self.parameters_in(c)} for c in self.cliques],
            "refusals": [vars(r) for r in self.refusals],
            "operators": len(self.operators),
            "share_governed": self.share_governed(),
            "patches": [vars(p) for p in self.patches],
            "weights": {name: list(shape) for name, shape in self.shapes.items()},
        }


def find_cliques(
    recording: Recording,
) -> tuple[tuple[Clique, ...], Pieces]:
    """List where each set of exchangeable channels stands in the weights.

    Returns:
        The cliques, and ``Trace.equal``.

    """
    placed = [a for labels in recording.weights.values() for a in labels if a is not None]
    held = np.concatenate(placed) if placed else np.zeros(0, np.int64)
    structure = Structure(recording.atoms, held)
    number = structure.channel.max() + 1
    weights, constants = (
        [
            (name, dim, structure.channel[array])
            for name, arrays in labels.items()
            for dim, array in enumerate(arrays)
            if array is not None
        ]
        for labels in (recording.weights, recording.constants)
    )
    places_of = _index([channels for _, _, channels in weights], number)
    raw: list[tuple[tuple[int, int, int], Orbit, list[Member]]] = []
    for orbit in structure.orbits:
        places = places_of(orbit.rows.ravel())
        members = _members(orbit, [weights[p] for p in places], number)
        if members:
            raw.append(((places[0], members[0].offset, members[0].repeat), orbit, members))
    raw.sort(key=lambda found: found[0])
    carried = _carried([(orbit.rows.shape[1], members) for _, orbit, members in raw])
    cliques: list[Clique] = []
    taken: dict[str, int] = {}
    owner = np.full(number, -1)
    for number_in_order, (_, orbit, members) in enumerate(raw):
        copies, channels, _ = orbit.rows.shape
        order_only = number_in_order in carried
        if not order_only:
            owner[orbit.rows.ravel()] = number_in_order
        cliques.append(
            Clique(
                _name(members, order_only, taken),
                channels,
                tuple(members),
                copies,
                order_only,
                tuple(_members(orbit, constants, number)),
            )
        )
    pieces = [owner[structure.channel[array]] for array in recording.atoms.equal]
    return tuple(cliques), _equal(pieces, cliques)


def flat_and_parted(cliques: Sequence[Clique]) -> Pieces:
    """Cliques of several times as many channels as the copies of another in the same weight.

    A stream of 192 channels and 3 heads of 64: what is computed as "channels over heads" from the
    one must fit the other.
    """
    at: dict[str, list[Clique]] = {}
    for clique in cliques:
        for name in {m.weight for m in clique.members}:
            at.setdefault(name, []).append(clique)
    found = {
        (flat.name, parted.name): ({flat.name: flat.channels}, {parted.name: flat.channels})
        for holders in at.values()
        for flat in holders
        for parted in holders
        if flat.copies == 1 < max(parted.copies, parted.members[0].repeat)
        and flat.channels > parted.channels
        and flat.channels % parted.channels == 0
        and not (flat.order_only or parted.order_only)
    }
    return tuple(found.values())


def _equal(found: Sequence[np.ndarray], cliques: Sequence[Clique]) -> Pieces:
    """What pieces of a tensor consist of, where they do not all consist of the same."""
    sets = set()
    for owners in found:
        counts = [np.unique(piece, return_counts=True) for piece in owners]
        pieces = [tuple(zip(*(a.tolist() for a in count), strict=True)) for count in counts]
        if len(set(pieces)) > 1:
            sets.add(tuple(dict.fromkeys(pieces)))
    return tuple(
        tuple({cliques[c].name if c >= 0 else "": n for c, n in piece} for piece in pieces)
        for pieces in sorted(sets)
    )


def _carried(found: Sequence[tuple[int, Sequence[Member]]]) -> set[int]:
    """Which of (channels, members) take their width from others across them.

    Of heads and channels inside heads one alone can carry the width: the channels, which lie
    closer together, unless there are too few of them to choose from (channels of which a
    depthwise convolution makes two each).
    """
    at: dict[tuple[str, int], list[tuple[int, Member]]] = {}
    for number, (_, members) in enumerate(found):
        for member in members:
            at.setdefault((member.weight, member.dim), []).append((number, member))
    outer_of: dict[frozenset[int], int] = {}
    for holders in at.values():
        often = np.bincount(np.concatenate([m.positions.ravel() for _, m in holders]))
        holders = [(n, m) for n, m in holders if often[m.positions].max() > 1]
        for (i, first), (j, second) in combinations(holders, 2):
            pair = frozenset((i, j))
            if i != j and pair not in outer_of and _overlap(first, second):
                outer_of[pair] = i if _stride(first) > _stride(second) else j
    carried: set[int] = set()
    for pair, outer in outer_of.items():
        (inner,) = pair - {outer}
        carried.add(outer if found[inner][0] >= FEW else inner)
    return carried


def _overlap(a: Member, b: Member) -> bool:
    return bool(np.isin(a.positions, b.positions).any())


def _stride(member: Member) -> int:
    return abs(int(member.positions[1, 0] - member.positions[0, 0]))


def _index(arrays: Sequence[np.ndarray], number: int) -> Callable[[np.ndarray], list[int]]:
    """A function from channels to the numbers of the arrays that hold some of them."""
    if not arrays:
        return lambda channels: []
    sizes = [len(a) for a in arrays]
    place = np.repeat(np.arange(len(arrays)), sizes)
    channel = np.concatenate(arrays)
    order = np.argsort(channel, kind="stable")
    place, starts = place[order], np.searchsorted(channel[order], np.arange(number + 1))

    def places(channels: np.ndarray) -> list[int]:
        counts = starts[channels + 1] - starts[channels]
        offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        found: list[int] = np.unique(place[np.repeat(starts[channels], counts) + offset]).tolist()
        return found

    return places


def _members(
    orbit: Orbit, holders: Sequence[tuple[str, int, np.ndarray]], number: int
) -> list[Member]:
    """Where an orbit's rows stand in each weight; nothing if some row stands in more places."""
    size = orbit.rows.shape[2]
    row, rank = np.full(number, -1), np.zeros(number, np.int64)
    flat = orbit.rows.reshape(-1, size)
    row[flat] = np.arange(len(flat))[:, None]
    rank[flat] = np.arange(size)
    members = []
    for name, dim, found in holders:
        at = np.flatnonzero(row[found] >= 0)
        if not len(at):
            continue
        order = np.lexsort((at, rank[found[at]], row[found[at]]))
        counts = np.bincount(row[found[at]], minlength=len(flat))
        if (counts != counts[0]).any():
            return []
        members.append(Member(name, dim, at[order].reshape(len(flat), -1)))
    return members


def _name(members: Sequence[Member], order_only: bool, taken: dict[str, int]) -> str:
    makers = [m for m in members if m.dim == 0] or members
    name = makers[0].weight.rpartition(".")[0] or makers[0].weight
    name += "@order" if order_only else ""
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}#{taken[name]}"
