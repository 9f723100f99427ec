"""Operators that move elements about: views, cuts, concatenations, padding."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np
import torch

from neumeta_cli.trace.combine import align, choose, combine, merge
from neumeta_cli.trace.factors import flatten_dim, mixed, take, view
from neumeta_cli.trace.labels import Atoms, Group, Labels
from neumeta_cli.trace.rules.pointwise import spread
from neumeta_cli.trace.rules.table import Call, RefusedError, rule


@rule("view _unsafe_view reshape flatten _reshape_alias unflatten reshape_as view_as")
def reshape(call: Call) -> list[Labels]:
    """Merge and split dimensions."""
    if prod(call.shape) != call.first.numel():
        raise RefusedError("a view in another dtype")
    return [view(call.atoms, call.x, call.shape)]


@rule("squeeze squeeze_")
def squeeze(call: Call) -> list[Labels]:
    """Dimensions of size one go."""
    given = call.arg("dim")
    chosen = range(len(call.x)) if given is None else call.dims()
    gone = {d for d in chosen if call.first.shape[d] == 1}
    x = call.x
    return [x.with_dims([d for i, d in enumerate(x.dims) if i not in gone])]


@rule("unsqueeze unsqueeze_")
def unsqueeze(call: Call) -> list[Labels]:
    """A dimension of size one comes."""
    x, at = call.x, call.arg("dim") % len(call.shape)
    return [x.with_dims([*x.dims[:at], (), *x.dims[at:]])]


@rule("expand broadcast_to")
def expand(call: Call) -> list[Labels]:
    """Dimensions of size one grow, new ones come in front: along them all slices are equal."""
    x, atoms = call.x, call.atoms
    dims = [()] * (len(call.shape) - len(x)) + list(x.dims)
    grown = [
        (atoms.factor(n),) if n > 1 and not d else d for n, d in zip(call.shape, dims, strict=True)
    ]
    new = {g[0] for g, d in zip(grown, dims, strict=True) if g and not d}
    return [replace(x.with_dims(grown), free=x.free | new)]


@rule("repeat")
def repeat(call: Call) -> list[Labels]:
    """Copies one after the other."""
    x, atoms, times = call.x, call.atoms, call.arg("repeats")
    dims: list[tuple[int, ...]] = [()] * (len(times) - len(x)) + list(x.dims)
    outer = [(atoms.factor(n),) if n > 1 else () for n in times]
    free = x.free | {f for o in outer for f in o}
    return [replace(x.with_dims([o + d for o, d in zip(outer, dims, strict=True)]), free=free)]


@rule("t t_ transpose transpose_ permute numpy_T movedim adjoint mT swapaxes")
def reorder(call: Call) -> list[Labels]:
    """Dimensions change places."""
    x = call.x
    order = list(range(len(x)))
    if (dims := call.arg("dims")) is not None:
        order = [d % len(x) for d in dims]
    elif call.arg("dim0") is not None:
        i, j = call.arg("dim0") % len(x), call.arg("dim1") % len(x)
        order[i], order[j] = j, i
    else:
        order.reverse()
    return [x.with_dims([x.dims[d] for d in order])]


@rule("slice narrow")
def cut(call: Call) -> list[Labels]:
    """Every ``step``-th index of one dimension from ``start`` on."""
    dim = call.arg("dim", 0) % len(call.x)
    size = call.first.shape[dim]
    if call.shape[dim] == size:
        return [call.x]
    start = call.arg("start") or 0
    start = max(0, start + size) if start < 0 else start
    index = start + np.arange(call.shape[dim]) * call.arg("step", 1)
    return [take(call.atoms, call.x, dim, index)]


@rule("select")
def select(call: Call) -> list[Labels]:
    """One index of a dimension."""
    dim = call.arg("dim") % len(call.x)
    index = call.arg("index")
    return [take(call.atoms, call.x, dim, int(index) % call.first.shape[dim])]


@rule("unbind")
def unbind(call: Call) -> list[Labels]:
    """All indices of a dimension."""
    dim = call.dims()[0]
    return [take(call.atoms, call.x, dim, i) for i in range(len(call.outs))]


@rule(
    "split split_with_sizes chunk unsafe_split unsafe_split_with_sizes tensor_split split_copy "
    "split_with_sizes_copy unsafe_chunk"
)
def split(call: Call) -> list[Labels]:
    """A dimension in pieces."""
    dim = call.dims()[0]
    return pieces(call.atoms, call.x, dim, [out.shape[dim] for out in call.outs])


def pieces(atoms: Atoms, labels: Labels, dim: int, sizes: Sequence[int]) -> list[Labels]:
    """Labels of consecutive slices of a dimension."""
    if len(sizes) == 1:
        return [labels]
    ends = np.cumsum(sizes)
    if len(set(sizes)) == 1 and len(labels.dims[dim]) == 1:
        group = labels.group_of(labels.dims[dim][0])
        if group is not None and group.atoms.ndim == 1:
            atoms.equal.append(group.atoms.reshape(len(sizes), -1))
    return [take(atoms, labels, dim, np.arange(e - n, e)) for e, n in zip(ends, sizes, strict=True)]


@rule("glu")
def glu(call: Call) -> list[Labels]:
    """The first half times the sigmoid of the second."""
    dim = call.dims()[0]
    half = call.shape[dim]
    left, right = pieces(call.atoms, call.x, dim, [half, half])
    return [spread(call.atoms, [left, right], len(call.shape))]


@rule("flip")
def flip(call: Call) -> list[Labels]:
    """Dimensions backwards."""
    x = call.x
    for dim in call.dims("dims"):
        x = take(call.atoms, x, dim, np.arange(call.first.shape[dim])[::-1].copy())
    return [x]


@rule("cat concat")
def cat(call: Call) -> list[Labels]:
    """Tensors one after the other along one dimension."""
    tensors = [t for t in call.arg("tensors") if t.numel() > 0 or t.dim() > 1]
    dim = call.arg("dim", 0) % len(call.shape)
    sizes = [t.shape[dim] for t in tensors]
    return [concatenate(call.atoms, [call.lookup(t) for t in tensors], dim, sizes)]


@rule("stack")
def stack(call: Call) -> list[Labels]:
    """Tensors side by side along a new dimension."""
    tensors, dim = call.arg("tensors"), call.arg("dim", 0) % len(call.shape)
    parts = []
    for tensor in tensors:
        x = call.lookup(tensor)
        parts.append(x.with_dims([*x.dims[:dim], (), *x.dims[dim:]]))
    groups = [part.groups for part in parts]
    alike = all(len(own) == 1 for own in groups) and call.atoms.tied([g[0].atoms for g in groups])
    return [concatenate(call.atoms, parts, dim, [1] * len(parts), apart=not alike)]


def concatenate(
    atoms: Atoms, parts: Sequence[Labels], dim: int, sizes: Sequence[int], apart: bool = False
) -> Labels:
    """Labels of a concatenation.

    Args:
        atoms: of the trace.
        parts: labels of the tensors.
        dim: along which they are put.
        sizes: of each along it.
        apart: what lies across ``dim`` is labelled for each part on its own, as if all parts were
            labelled along ``dim``; otherwise only if some part is.

    """
    rank = len(parts[0])
    flat = [flatten_dim(atoms, part, dim) for part in parts]
    names = [[("own", n) if d == dim else d for d in range(rank)] for n in range(len(flat))]
    aligned = align(atoms, list(zip(flat, names, strict=True)))
    along = [aligned.factors.get(("own", n), ()) for n in range(len(flat))]
    across = _across(aligned.operands, along, apart)
    shared = [
        replace(p, groups=tuple(g for g in p.groups if not _touches(g, across, a)))
        for p, a in zip(aligned.operands, along, strict=True)
    ]
    groups = merge(atoms, shared)
    total = (atoms.factor(sum(sizes)),)
    if across or any(p.group_of(a[0]) for p, a in zip(aligned.operands, along, strict=True) if a):
        arrays = [
            _part(atoms, p, a, across, n)
            for p, a, n in zip(aligned.operands, along, sizes, strict=True)
        ]
        groups.append(Group((*across, *total), np.concatenate(arrays, axis=-1)))
    dims = [total if d == dim else aligned.factors.get(d, ()) for d in range(rank)]
    kept = {f for d in dims for f in d}
    free = frozenset.intersection(*(p.free for p in aligned.operands)) & kept - set(across)
    return Labels(tuple(dims), tuple(choose(atoms, groups, kept)), free)


def _touches(group: Group, across: Sequence[int], along: Sequence[int]) -> bool:
    return bool(set(group.factors) & {*across, *along})


def _across(
    parts: Sequence[Labels], along: Sequence[tuple[int, ...]], apart: bool
) -> tuple[int, ...]:
    """Factors that are labelled together with the dimension of a concatenation."""
    own = {a[0] for a in along if a}
    reached = set(own)
    groups = [g for part in parts for g in part.groups]
    if apart:
        reached |= {f for g in groups for f in g.factors}
    while True:
        more = {f for g in groups if reached & set(g.factors) for f in g.factors} - reached
        if not more:
            return tuple(sorted(reached - own))
        reached |= more


def _part(
    atoms: Atoms, part: Labels, along: tuple[int, ...], across: tuple[int, ...], size: int
) -> np.ndarray:
    """Atoms of one part over ``across`` and the dimension of the concatenation."""
    groups = [g for g in part.groups if _touches(g, across, along)]
    axes = (*across, *along)
    if len(groups) == 1 and set(groups[0].factors) == set(axes):
        return groups[0].ordered(axes).reshape(*(atoms.sizes[f] for f in across), size)
    own = along or (atoms.factor(size),)
    joint = Group((*across, *own), atoms.fresh(*(atoms.sizes[f] for f in across), size))
    atoms.seen(Labels((), (joint,)))
    for group in groups:
        rest = [f for f in joint.factors if f not in group.factors]
        atoms.contain(group.atoms, joint.ordered([*group.factors, *rest]))
    marked = {f for g in groups for f in g.factors} | part.free
    atoms.pin_factors(joint, [f for f in axes if f not in marked])
    return joint.atoms


@rule("constant_pad_nd")
def pad(call: Call) -> list[Labels]:
    """One value around some of the last dimensions; its indices may change places."""
    x, pads, atoms = call.x, call.arg("pad"), call.atoms
    sizes = list(call.first.shape)
    for i in range(len(pads) // 2):
        dim, (before, after) = len(x) - 1 - i, pads[2 * i : 2 * i + 2]
        if before == after == 0:
            continue
        if before < 0 or after < 0:
            index = np.arange(max(0, -before), sizes[dim] - max(0, -after))
            x = take(atoms, x, dim, index)
            sizes[dim] = len(index)
        widths = [max(0, before), sizes[dim], max(0, after)]
        sizes[dim] = sum(widths)
        if not any(set(g.factors) & set(x.dims[dim]) for g in x.groups):
            grown = x.with_dims(
                [(atoms.factor(sizes[dim]),) if d == dim else own for d, own in enumerate(x.dims)]
            )
            x = replace(grown, free=x.free - set(x.dims[dim]))
            continue
        parts = [_filled(atoms, x, dim, widths[0]), x, _filled(atoms, x, dim, widths[2])]
        used = [i for i, n in enumerate(widths) if n]
        x = concatenate(atoms, [parts[i] for i in used], dim, [widths[i] for i in used])
    return [x]


def _filled(atoms: Atoms, like: Labels, dim: int, size: int) -> Labels:
    """Labels of a block of one value: free everywhere."""
    own = (atoms.factor(size),) if size > 1 else ()
    dims = [own if d == dim else f for d, f in enumerate(like.dims)]
    return Labels(tuple(dims), (), frozenset(f for d in dims for f in d))


@rule("index")
def index(call: Call) -> list[Labels]:
    """A table looked up: the dimensions that are not indexed stay."""
    indices = call.arg("indices")
    given = [d for d, i in enumerate(indices) if i is not None]
    used = [indices[d] for d in given]
    if any(t.dtype in (torch.bool, torch.uint8) for t in used):
        raise RefusedError("indexing by a mask")
    for tensor in used:
        call.atoms.fix_all(call.lookup(tensor))
    x = mixed(call.atoms, call.x, given, [1] * len(given))
    first = given[0] if given == list(range(given[0], given[-1] + 1)) else 0
    rest = [x.dims[d] for d in range(len(x)) if d not in given]
    middle = call.atoms.plain(call.shape[first : first + max(t.dim() for t in used)]).dims
    return [x.with_dims([*rest[:first], *middle, *rest[first:]])]


@rule("index_select")
def index_select(call: Call) -> list[Labels]:
    """Indices of one dimension that a tensor names: these are places."""
    dim = call.dims()[0]
    call.atoms.fix_all(call.lookup(call.arg("index")))
    return [mixed(call.atoms, call.x, [dim], [call.shape[dim]])]


@rule("gather take_along_dim")
def gather(call: Call) -> list[Labels]:
    """Elements that a tensor of the same dimensions names along one of them."""
    dim, index = (
        call.dims()[0],
        call.labels("index" if call.arg("index") is not None else "indices"),
    )
    assert index is not None
    whole = call.first.shape == call.shape
    dims = [dim] if whole else list(range(len(call.x)))
    x = mixed(call.atoms, call.x, dims, [call.shape[d] for d in dims])
    names = list(range(len(x)))
    return [combine(call.atoms, [(x, names), (call.atoms.pin(index, [dim]), names)], names)]


@rule("as_strided as_strided_")
def strided(call: Call) -> list[Labels]:
    """The same elements with other strides, as far as sizes tell."""
    if call.shape != tuple(call.first.shape) or call.arg("storage_offset"):
        raise RefusedError("a strided view of another shape")
    return [call.x]


@rule("view_as_complex")
def view_as_complex(call: Call) -> list[Labels]:
    """The last dimension becomes real and imaginary part."""
    x = mixed(call.atoms, call.x, [len(call.x) - 1], [1])
    return [x.with_dims(x.dims[:-1])]


@rule("view_as_real")
def view_as_real(call: Call) -> list[Labels]:
    """Real and imaginary part become a last dimension."""
    return [call.x.with_dims([*call.x.dims, (call.atoms.factor(2),)])]


@rule("diagonal")
def diagonal(call: Call) -> list[Labels]:
    """Two dimensions that run together become the last one."""
    x = call.x
    i, j = (call.arg(n) % len(x) for n in ("dim1", "dim2"))
    x = mixed(call.atoms, x, [i, j], [1, 1])
    rest = [d for n, d in enumerate(x.dims) if n not in (i, j)]
    return [x.with_dims([*rest, *call.atoms.plain(call.shape[-1:]).dims])]
