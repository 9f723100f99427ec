"""Labels: which channel stands at which index of a tensor's dimension.

Every index of every dimension of every weight starts as an *atom* of its own, an integer.
Operators tie atoms, fix them, or put them into blocks; atoms that are tied, directly or through
others, are one *channel*.

A dimension is a product of *factors*, outermost first: ``view`` from (batch, heads · size) to
(batch · heads, size) only regroups three factors. Along a factor a tensor is *labelled* by atoms,
*free* (all its slices are equal: an expanded dimension), or *plain* (batch, space, inputs,
outputs), where no index may move. Factors that are labelled jointly form a *group*: the channels
of attention heads are labelled by (head, place in the head), since a place in one head has nothing
to do with the same place in another.

By hand, for queries q and keys k of two heads of two channels. The rows of ``q.weight`` are atoms
q0 to q3, those of ``k.weight`` k0 to k3. ``view(…, 2, 2)`` ties nothing: the dimension of 4 is the
product of a factor for heads and one for channels in a head, labelled jointly::

    q: [[q0, q1],     k: [[k0, k1],       one row a head
        [q2, q3]]         [k2, k3]]

``q @ k.transpose(-1, -2)`` sums over the second factor, so it ties q0 to k0, q1 to k1, q2 to k2 and
q3 to k3. Its result has one score a head: new atoms h0 and h1, the parents of the blocks {q0, q1}
and {q2, q3}. What follows treats both heads alike, so that ``symmetry`` finds three things that
may change places: q0 with q1 (and k0 with k1), q2 with q3, and the heads as wholes, h0 with h1.
Queries and keys of one head change places together; those of the other head need not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from neumeta_cli.trace.unions import Unions

FIXED = 0  # the atom that every immovable index is tied to


@dataclass(frozen=True, eq=False)
class Group:
    """Factors that are labelled together, and an array of atoms with one axis for each."""

    factors: tuple[int, ...]
    atoms: np.ndarray

    def ordered(self, factors: Sequence[int]) -> np.ndarray:
        """The atoms with their axes in this order; the factors are all of the group's."""
        if tuple(factors) == self.factors:
            return self.atoms
        return self.atoms.transpose([self.factors.index(f) for f in factors])


@dataclass(frozen=True, eq=False)
class Labels:
    """What the dimensions of one tensor are.

    Attributes:
        dims: per dimension its factors, outermost first; none for a dimension of size one.
        groups: disjoint; the factors in none of them are free or plain.
        free: factors along which all slices are equal.

    """

    dims: tuple[tuple[int, ...], ...]
    groups: tuple[Group, ...] = ()
    free: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.dims)

    def group_of(self, factor: int) -> Group | None:
        return next((g for g in self.groups if factor in g.factors), None)

    def with_dims(self, dims: Sequence[Sequence[int]]) -> "Labels":
        """Other dimensions over the same factors."""
        return replace(self, dims=tuple(tuple(d) for d in dims))


@dataclass
class Atoms:
    """The atoms of one trace and what operators said about them.

    Attributes:
        count: how many atoms there are.
        sizes: of each factor, by number.
        ties: arrays of atoms that are equal element by element.
        blocks: (parents (I,), children (I, J)): the children of a row may change places with each
            other, and rows may change places as wholes together with their parents.
        occurrences: arrays that an operator saw as one set.
        equal: (pieces, size) arrays whose pieces must stay equally many when channels go.

    """

    count: int = 1
    sizes: list[int] = field(default_factory=list)
    ties: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    blocks: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    occurrences: list[np.ndarray] = field(default_factory=list)
    equal: list[np.ndarray] = field(default_factory=list)
    _same: Unions = field(default_factory=Unions)
    _alive: dict[int, np.ndarray] = field(default_factory=dict)  # an id stays one array's
    _seen: set[int] = field(default_factory=set)
    _projected: dict[tuple[int, tuple[int, ...]], np.ndarray] = field(default_factory=dict)

    def fresh(self, *shape: int) -> np.ndarray:
        """New atoms, tied to nothing yet."""
        n = int(np.prod(shape))
        self.count += n
        return np.arange(self.count - n, self.count).reshape(shape)

    def factor(self, size: int) -> int:
        """A new factor."""
        self.sizes.append(size)
        return len(self.sizes) - 1

    def tie(self, a: np.ndarray, b: np.ndarray) -> None:
        """Index i of ``a`` is the same channel as index i of ``b``."""
        if a is not b:
            if a.shape == b.shape:
                self._same.unite(self._key(a), self._key(b))
            self.ties.append(tuple(x.ravel() for x in np.broadcast_arrays(a, b)))  # type: ignore[arg-type]

    def tied(self, arrays: Sequence[np.ndarray]) -> bool:
        """Whether these arrays are already known to be equal element by element."""
        return len({self._same.root(self._key(a)) for a in arrays}) == 1

    def _key(self, array: np.ndarray) -> int:
        self._alive[id(array)] = array
        return id(array)

    def fix(self, atoms: np.ndarray) -> None:
        """No index may move."""
        self.tie(atoms, np.zeros(1, np.int64))

    def contain(self, parents: np.ndarray, children: np.ndarray) -> None:
        """Each parent is a block of children; ``children`` has further axes behind."""
        rows = children.reshape(parents.size, -1)
        if parents.any():
            self._seen_as_array(parents)
        if rows.shape[1] == 1:
            self.tie(parents.ravel(), rows[:, 0])
        else:
            self.blocks.append((parents.ravel(), rows))

    def seen(self, labels: Labels) -> None:
        """Note that an operator treated the atoms of each group alike.

        Two channels may be exchanged only if every operator saw both or neither.
        """
        for group in labels.groups:
            self._seen_as_array(group.atoms)

    def plain(self, shape: Sequence[int]) -> Labels:
        """Labels of a tensor no index of which may move."""
        return Labels(tuple((self.factor(n),) if n != 1 else () for n in shape))

    def labelled(self, shape: Sequence[int]) -> Labels:
        """Labels of a tensor each index of which may move."""
        bare = self.plain(shape)
        groups = (Group(d, self.fresh(n)) for d, n in zip(bare.dims, shape, strict=True) if d)
        return replace(bare, groups=tuple(groups))

    def project(self, group: Group, kept: Sequence[int]) -> Group:
        """Blocks over some factors of a group: what is left where the others are summed away."""
        if set(kept) == set(group.factors):
            return group
        kept = [f for f in group.factors if f in kept]
        axes = tuple(group.factors.index(f) for f in kept)
        key = (id(group.atoms), axes)
        if key not in self._projected:
            self._seen_as_array(group.atoms)
            rest = [f for f in group.factors if f not in kept]
            parents = self.fresh(*(self.sizes[f] for f in kept))
            self.contain(parents, group.ordered([*kept, *rest]))
            self._seen_as_array(parents)
            self._projected[key] = parents
        return Group(tuple(kept), self._projected[key])

    def _seen_as_array(self, atoms: np.ndarray) -> None:
        if id(atoms) not in self._seen:
            self._seen.add(id(atoms))
            self.occurrences.append(atoms)  # which also keeps the id taken

    def pin_factors(self, group: Group, factors: Sequence[int]) -> Group | None:
        """Along these factors nothing may change places; the group, or None if all is fixed."""
        pinned = [f for f in factors if f in group.factors]
        if len(pinned) == len(group.factors):
            self.fix(group.atoms)
            return None
        for factor in pinned:
            rest = [f for f in group.factors if f != factor]
            self.contain(np.zeros(self.sizes[factor], np.int64), group.ordered([factor, *rest]))
        return group

    def pin(self, labels: Labels, dims: Sequence[int]) -> Labels:
        """Labels whose indices along ``dims`` may not move."""
        factors = [f for d in dims for f in labels.dims[d]]
        groups = tuple(g for g in labels.groups if not set(factors) & set(g.factors))
        for group in labels.groups:
            if set(factors) & set(group.factors) and (left := self.pin_factors(group, factors)):
                groups += (left,)
        return replace(labels, groups=groups, free=labels.free - set(factors))

    def fix_all(self, labels: Labels) -> None:
        """No index of the tensor may move."""
        for group in labels.groups:
            self.fix(group.atoms)
