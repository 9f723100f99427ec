"""Reshaping of labels: splitting, merging and cutting the factors of dimensions."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from neumeta_cli.trace.labels import Atoms, Group, Labels


def split_factor(atoms: Atoms, labels: Labels, factor: int, sizes: Sequence[int]) -> Labels:
    """Replace one factor by several, outermost first."""
    parts = [atoms.factor(n) for n in sizes]
    dims = [[p for f in d for p in (parts if f == factor else [f])] for d in labels.dims]
    group = labels.group_of(factor)
    free = labels.free | set(parts) if factor in labels.free else labels.free
    groups = labels.groups
    if group is not None:
        groups = tuple(g for g in groups if g is not group)
        if (divided := _divided(atoms, group, factor, parts)) is not None:
            groups += (divided,)
    return replace(labels.with_dims(dims), groups=groups, free=free)


def _divided(atoms: Atoms, group: Group, factor: int, parts: Sequence[int]) -> Group | None:
    at = group.factors.index(factor)
    shape = group.atoms.shape
    sizes = [atoms.sizes[p] for p in parts]
    array = group.atoms.reshape(*shape[:at], *sizes, *shape[at + 1 :])
    factors = [*group.factors[:at], *parts, *group.factors[at + 1 :]]
    if len(np.unique(group.atoms)) < group.atoms.size:  # channels repeat along an axis
        for part in parts:
            axis = factors.index(part)
            first = array.take([0], axis)
            if (array == first).all():
                array, factors = first.squeeze(axis), [f for f in factors if f != part]
        if len(np.unique(array)) < array.size:
            atoms.fix(array)
            return None
    elif group.atoms.ndim == 1:
        atoms.equal.append(array.reshape(sizes[0], -1))
    return Group(tuple(factors), array) if factors else None


def flatten_dim(atoms: Atoms, labels: Labels, dim: int) -> Labels:
    """Make one dimension a single factor; a channel that runs along other factors repeats."""
    factors = labels.dims[dim]
    if len(factors) <= 1:
        return labels
    merged = atoms.factor(prod(atoms.sizes[f] for f in factors))
    dims = [*labels.dims[:dim], (merged,), *labels.dims[dim + 1 :]]
    free = labels.free
    if set(factors) <= free:
        return replace(labels.with_dims(dims), free=free | {merged})
    touched = [g for g in labels.groups if set(g.factors) & set(factors)]
    if not touched:
        return labels.with_dims(dims)
    group = join(atoms, touched)
    others = [f for f in group.factors if f not in factors]
    inner = [f for f in factors if f in group.factors]
    array = group.ordered([*others, *inner])
    shape = [atoms.sizes[f] for f in others]
    index = tuple(slice(None) if f in group.factors else None for f in factors)
    array = array[(*[slice(None)] * len(others), *index)]
    full = np.broadcast_to(array, [*shape, *(atoms.sizes[f] for f in factors)])
    joined = Group((*others, merged), full.reshape(*shape, -1))
    groups = (*(g for g in labels.groups if g not in touched), joined)
    return replace(labels.with_dims(dims), groups=groups)


def join(atoms: Atoms, groups: Sequence[Group]) -> Group:
    """One group over the factors of several: a block for every index of each."""
    factors = tuple(dict.fromkeys(f for g in groups for f in g.factors))
    for group in groups:
        if len(group.factors) == len(factors):
            return group
    joint = Group(factors, atoms.fresh(*(atoms.sizes[f] for f in factors)))
    for group in groups:
        rest = [f for f in factors if f not in group.factors]
        atoms.contain(group.atoms, joint.ordered([*group.factors, *rest]))
    return joint


def view(atoms: Atoms, labels: Labels, shape: Sequence[int]) -> Labels:
    """Regroup the factors of all dimensions, in order, into dimensions of these sizes."""
    queue = [f for d in labels.dims for f in d]
    dims: list[tuple[int, ...]] = []
    for size in shape:
        own: list[int] = []
        while size > 1:
            n = atoms.sizes[queue[0]]
            if size % n == 0:
                own.append(queue.pop(0))
                size //= n
            elif n % size == 0:
                labels = labels.with_dims([*dims, own, *([f] for f in queue)])
                labels = split_factor(atoms, labels, queue[0], [size, n // size])
                first, second = labels.dims[len(dims) + 1]
                own.append(first)
                queue[0] = second
                size = 1
            else:  # sizes that no product of factors gives, such as (2, 6) seen as (3, 4)
                labels = labels.with_dims([*dims, own, queue[:2], *([f] for f in queue[2:])])
                labels = flatten_dim(atoms, labels, len(dims) + 1)
                queue[:2] = labels.dims[len(dims) + 1]
        dims.append(tuple(own))
    return labels.with_dims(dims)


def take(atoms: Atoms, labels: Labels, dim: int, index: np.ndarray | int) -> Labels:
    """Labels of a selection along one dimension, which an integer removes."""
    single = isinstance(index, int)
    size = 1 if single else len(index)  # type: ignore[arg-type]
    labels = flatten_dim(atoms, labels, dim)
    factors = labels.dims[dim]
    middle: list[tuple[int, ...]] = [] if single else [()]
    if not factors:
        return labels.with_dims([*labels.dims[:dim], *middle, *labels.dims[dim + 1 :]])
    old = factors[0]
    new = atoms.factor(size)
    if size != 1:
        middle = [(new,)]
    group, groups = labels.group_of(old), labels.groups
    if group is not None:
        groups = tuple(g for g in groups if g is not group)
        axis = group.factors.index(old)
        array = group.atoms.take(index, axis)
        kept = [new if f == old else f for f in group.factors]
        if size == 1:
            array = array if single else array.squeeze(axis)
            kept.remove(new)
        if kept:
            groups += (Group(tuple(kept), array),)
        else:
            atoms.fix(array)
    free = labels.free | {new} if old in labels.free else labels.free
    dims = [*labels.dims[:dim], *middle, *labels.dims[dim + 1 :]]
    return replace(labels.with_dims(dims), groups=groups, free=free)


def reduce(atoms: Atoms, labels: Labels, dims: Sequence[int], keep: bool) -> Labels:
    """Labels where ``dims`` are summed away, or stay with size one."""
    gone = {f for d in dims for f in labels.dims[d]}
    groups = []
    for group in labels.groups:
        kept = [f for f in group.factors if f not in gone]
        if kept:
            groups.append(atoms.project(group, kept))
    left = [() if d in dims else own for d, own in enumerate(labels.dims) if keep or d not in dims]
    return replace(labels.with_dims(left), groups=tuple(groups), free=labels.free - gone)


def mixed(atoms: Atoms, labels: Labels, dims: Sequence[int], sizes: Sequence[int]) -> Labels:
    """Labels where places along ``dims`` are told apart and mixed into new ones, of these sizes."""
    labels = atoms.pin(labels, dims)
    reduced = reduce(atoms, labels, dims, keep=True)
    new = dict(zip(dims, atoms.plain(sizes).dims, strict=True))
    return reduced.with_dims([new.get(d, own) for d, own in enumerate(reduced.dims)])
