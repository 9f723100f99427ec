"""Operators of several tensors as sums of products over named indices, like ``torch.einsum``."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from neumeta_cli.trace.factors import flatten_dim, join, split_factor
from neumeta_cli.trace.labels import Atoms, Group, Labels

Operand = tuple[Labels, Sequence[Hashable]]  # a tensor and the name of each of its dimensions


def combine(atoms: Atoms, operands: Sequence[Operand], out: Sequence[Hashable]) -> Labels:
    """Labels of a result whose element at ``out`` depends on the operands there alone.

    Dimensions of one name run together, except those of size one, which are spread. Names missing
    from ``out`` are summed away. Ties what runs together.
    """
    aligned = align(atoms, operands)
    groups = merge(atoms, aligned.operands)
    dims = tuple(aligned.factors.get(name, ()) for name in out)
    kept = {f for d in dims for f in d}
    return Labels(dims, tuple(choose(atoms, groups, kept)), _free(aligned.operands) & kept)


@dataclass(frozen=True)
class Aligned:
    """Operands in which dimensions of one name have the same factors."""

    operands: list[Labels]
    factors: dict[Hashable, tuple[int, ...]]


def align(atoms: Atoms, operands: Sequence[Operand]) -> Aligned:
    """Split or merge factors until dimensions of one name agree, and number them alike."""
    own = [labels for labels, _ in operands]
    places: dict[Hashable, list[tuple[int, int]]] = {}
    for number, (labels, names) in enumerate(operands):
        for dim, name in enumerate(names):
            if labels.dims[dim]:
                places.setdefault(name, []).append((number, dim))
    factors: dict[Hashable, tuple[int, ...]] = {}
    renamed: list[dict[int, int]] = [{} for _ in own]
    for name, found in places.items():
        cuts = _common_sizes([[atoms.sizes[f] for f in own[n].dims[d]] for n, d in found])
        for number, dim in found:
            own[number] = _cut(atoms, own[number], dim, cuts)
        first, at = found[0]
        factors[name] = tuple(atoms.factor(atoms.sizes[f]) for f in own[first].dims[at])
        for number, dim in found:
            renamed[number] |= dict(zip(own[number].dims[dim], factors[name], strict=True))
    return Aligned([_rename(o, new) for o, new in zip(own, renamed, strict=True)], factors)


def _common_sizes(sequences: Sequence[Sequence[int]]) -> list[int] | None:
    """The coarsest factorisation that refines all of them, None if there is none."""
    marks: set[int] = set()
    for sizes in sequences:
        product = 1
        for n in reversed(sizes):
            product *= n
            marks.add(product)
    result, before = [], 1
    for mark in sorted(marks):
        if mark % before:
            return None
        result.append(mark // before)
        before = mark
    return result[::-1]


def _cut(atoms: Atoms, labels: Labels, dim: int, sizes: list[int] | None) -> Labels:
    if sizes is None:
        return flatten_dim(atoms, labels, dim)
    rest = list(sizes)
    for factor in labels.dims[dim]:
        parts, product = [], 1
        while product < atoms.sizes[factor]:
            parts.append(rest.pop(0))
            product *= parts[-1]
        if len(parts) > 1:
            labels = split_factor(atoms, labels, factor, parts)
    return labels


def _rename(labels: Labels, new: dict[int, int]) -> Labels:
    return Labels(
        tuple(tuple(new[f] for f in d) for d in labels.dims),
        tuple(Group(tuple(new[f] for f in g.factors), g.atoms) for g in labels.groups),
        frozenset(new[f] for f in labels.free if f in new),
    )


def _plain(operands: Sequence[Labels]) -> set[int]:
    """Factors along which some operand may not move."""
    plain: set[int] = set()
    for labels in operands:
        marked = {f for g in labels.groups for f in g.factors} | labels.free
        plain |= {f for d in labels.dims for f in d} - marked
    return plain


def _free(operands: Sequence[Labels]) -> frozenset[int]:
    """Factors along which every operand that has them is free."""
    marked = {f for labels in operands for g in labels.groups for f in g.factors}
    free = frozenset(f for labels in operands for f in labels.free)
    return free - marked - _plain(operands)


def merge(atoms: Atoms, operands: Sequence[Labels]) -> list[Group]:
    """Tie groups of different operands that run together; gives groups that may overlap."""
    plain = _plain(operands)
    merged: list[Group] = []
    for labels in operands:
        fresh = []
        for group in labels.groups:
            said = False
            for other in list(merged):
                superfluous = _relate(atoms, other, group, plain)
                if superfluous is other:
                    merged.remove(other)
                said |= superfluous is group
            if not said:
                fresh.append(group)
        merged += fresh
    left = [atoms.pin_factors(g, [f for f in g.factors if f in plain]) for g in merged]
    return [g for g in left if g is not None]


def _relate(atoms: Atoms, a: Group, b: Group, plain: set[int]) -> Group | None:
    """Tie what two groups share; gives the one that says nothing beyond the other, if any."""
    common = [f for f in a.factors if f in b.factors]
    if not common:
        return None
    if len(common) == len(a.factors) == len(b.factors):
        atoms.tie(a.atoms, b.ordered(a.factors))
        return b
    small, large = (a, b) if len(common) == len(a.factors) else (b, a)
    if len(common) == len(small.factors):
        rest = [f for f in large.factors if f not in common]
        inside = large.ordered([*small.factors, *rest])
        if set(rest) <= plain:  # what cannot move in its block moves with it
            atoms.tie(small.atoms.reshape(*small.atoms.shape, *[1] * len(rest)), inside)
            return large
        atoms.contain(small.atoms, inside)
        return small
    shared = atoms.project(a, common)
    inside = b.ordered([*shared.factors, *(f for f in b.factors if f not in common)])
    atoms.contain(shared.atoms, inside)
    return None


def choose(atoms: Atoms, groups: Sequence[Group], kept: set[int]) -> list[Group]:
    """Disjoint groups over the factors in ``kept``, the most detailed ones."""
    left = [
        atoms.project(g, [f for f in g.factors if f in kept])
        for g in groups
        if kept & set(g.factors)
    ]
    parts: list[list[Group]] = []  # groups that share factors
    for group in left:
        touching = [p for p in parts if any(set(g.factors) & set(group.factors) for g in p)]
        parts = [p for p in parts if p not in touching]
        parts.append([group, *(g for p in touching for g in p)])
    return [join(atoms, part) for part in parts]


def closed(atoms: Atoms, labels: Labels, dims: Sequence[int]) -> Labels:
    """The same labels, where an operator normalises over ``dims``: these make up blocks."""
    inside = {f for d in dims for f in labels.dims[d]}
    for group in labels.groups:
        outside = [f for f in group.factors if f not in inside]
        if outside:
            atoms.project(group, outside)
    return labels
