"""What each operator does to labels: one operator, one line in the table, one small function.

A rule receives the atoms, the labels of the operator's tensor arguments (in the order of
``args``, None for arguments that are no tensors), the call's arguments and its outputs, and gives
the labels of each output tensor. An operator without a rule fixes every dimension that it touches.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from neumeta_cli.trace.labels import Atoms, Label, Labels

Lookup = Callable[[Tensor], Labels]
Rule = Callable[[Atoms, Lookup, Sequence[Any], Sequence[Tensor]], list[Labels]]

RULES: dict[str, Rule] = {}


class RefusedError(Exception):
    """A rule met a case that it does not cover; its arguments are fixed instead."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ATen operators, by base name (``aten.add.Tensor`` is ``add``)."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def _unlabelled(tensor: Tensor) -> Labels:
    return [None] * tensor.dim()


def _spread(labels: Labels, like: Sequence[Tensor]) -> list[Labels]:
    """The same labels for each output, None where an output's size differs."""
    return [
        [
            lab if lab is not None and len(lab) == n else None
            for lab, n in zip(labels, out.shape, strict=True)
        ]
        for out in like
    ]


ELEMENTWISE = """
    relu relu_ relu6 hardtanh hardtanh_ silu silu_ gelu sigmoid sigmoid_ tanh tanh_ hardswish
    hardswish_ hardsigmoid hardsigmoid_ leaky_relu leaky_relu_ elu elu_ softplus mish mish_ neg
    exp log sqrt rsqrt abs square reciprocal clone detach alias dropout native_dropout _to_copy
    clamp clamp_min clamp_ clamp_min_ erf contiguous lift_fresh bernoulli_ _softmax _log_softmax
    max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d avg_pool1d
    upsample_nearest2d upsample_bilinear2d upsample_bicubic2d logical_not isnan
"""
BROADCASTING = """
    add add_ sub sub_ mul mul_ div div_ maximum minimum pow rsub where addcmul atan2
    eq ne lt gt le ge logical_and logical_or bitwise_and prelu _prelu_kernel
"""


@rule(*ELEMENTWISE.split())
def _same(
    atoms: Atoms, labels: Lookup, args: Sequence[Any], outs: Sequence[Tensor]
) -> list[Labels]:
    return _spread(labels(args[0]), outs)


@rule(*BROADCASTING.split())
def _broadcast(
    atoms: Atoms, labels: Lookup, args: Sequence[Any], outs: Sequence[Tensor]
) -> list[Labels]:
    rank = outs[0].dim()
    result: Labels = [None] * rank
    inputs = [a for a in args if isinstance(a, Tensor)]
    for dim in range(rank):
        size = outs[0].shape[dim]
        met: list[Label] = []
        for tensor in inputs:
            own = dim - (rank - tensor.dim())
            if own >= 0 and tensor.shape[own] == size and size > 1:
                met.append(labels(tensor)[own])
        label = met[0] if met else None
        for other in met[1:]:
            label = atoms.tie(label, other)
        result[dim] = label
    return [result]


@rule("convolution")
def _convolution(
    atoms: Atoms, labels: Lookup, args: Sequence[Any], outs: Sequence[Tensor]
) -> list[Labels]:
    x, weight, bias, transposed, groups = args[0], args[1], args[2], args[6], args[8]
    x_label, w = labels(x)[1], labels(weight)
    w_in, w_out = (w[0], w[1]) if transposed else (w[1], w[0])
    channels = x.shape[1]
    if groups == 1:
        atoms.tie(x_label, w_in)
    elif groups == channels == outs[0].shape[1] and not transposed:
        w_out = atoms.tie(x_label, w_out)
    else:
        raise RefusedError(f"convolution with {groups} groups")
    if isinstance(bias, Tensor):
        w_out = atoms.tie(w_out, labels(bias)[0])
    return [[labels(x)[0], w_out, *[None] * (outs[0].dim() - 2)]]


@rule("mm", "bmm", "mv", "dot")
def _matmul(
    atoms: Atoms, labels: Lookup, args: Sequence[Any], outs: Sequence[Tensor]
) -> list[Labels]:
    a, b = labels(args[0]), labels(args[1])
    if len(a) != len(b):
        raise RefusedError("product of a matrix and a vector")
    atoms.tie(a[-1], b[-2])
    batch = [atoms.tie(p, q) for p, q in zip(a[:-2], b[:-2], strict=True)]
    return [[*batch, a[-2], b[-1]]]


@rule("addmm")
def _addmm(
    atoms: Atoms, labels: Lookup, args: Sequence[Any], outs: Sequence[Tensor]
) -> list[Labels]:
    product = _matmul(atoms, labels, args[1:3], outs)
    bias = labels(args[0])
    if args[0].dim() != 1:
        raise RefusedError("addmm with a matrix to add")
    return [[product[0][0], atoms.tie(product[0][1], bias[0])]]


@rule("_native_batch_norm_legit_no_training", "native_batch_norm", "cudnn_batch_norm")
def _batch_norm(
    atoms: Atoms, labels: Lookup, args: Sequence[Any], outs: Sequence[Tensor]
) -> list[Labels]:
    x = labels(args[0])
    for statistic in args[1:5]:
        if isinstance(statistic, Tensor):
            x[1] = atoms.tie(x[1], labels(statistic)[0])
    return [x, *map(_unlabelled, outs[1:])]


@rule("native_layer_norm")
def _layer_norm(
    atoms: Atoms, labels: Lookup, args: Sequence[Any], outs: Sequence[Tensor]
) -> list[Labels]:
    x, first = labels(args[0]), args[0].dim() - len(args[1])
    for affine in args[2:4]:
        if isinstance(affine, Tensor):
            for dim, label in enumerate(labels(affine), start=first):
                x[dim] = atoms.tie(x[dim], label)
    return [x, *map(_unlabelled, outs[1:])]


@rule("native_group_norm")
def _group_norm(
    atoms: Atoms, labels: Lookup, args: Sequence[Any], outs: Sequence[Tensor]
) -> list[Labels]:
    if args[6] != 1:
        raise RefusedError(f"group norm with {args[6]} groups")
    x = labels(args[0])
    for affine in args[1:3]:
        if isinstance(affine, Tensor):
            x[1] = atoms.tie(x[1], labels(affine)[0])
    return [x, *map(_unlabelled, outs[1:])]


@rule("mean", "sum", "amax", "amin", "prod", "linalg_vector_norm")
def _reduce(
    atoms: Atoms, labels: Lookup, args: Sequence[Any], outs: Sequence[Tensor]
) -> list[Labels]:
    x = labels(args[0])
    given = [a for a in args[1:] if isinstance(a, list | tuple)]
    dims: Sequence[int] = given[0] if given else range(len(x))
    gone = {d % len(x) for d in dims} if len(x) else set()
    if outs[0].dim() == len(x):
        return [[None if d in gone else lab for d, lab in enumerate(x)]]
    return [[lab for d, lab in enumerate(x) if d not in gone]]


@rule("cat")
def _cat(atoms: Atoms, labels: Lookup, args: Sequence[Any], outs: Sequence[Tensor]) -> list[Labels]:
    tensors = [t for t in args[0] if t.numel() > 0]
    along = (args[1] if len(args) > 1 else 0) % outs[0].dim()
    result: Labels = []
    for dim in range(outs[0].dim()):
        parts = [labels(t)[dim] for t in tensors]
        if dim != along:
            label = parts[0]
            for part in parts[1:]:
                label = atoms.tie(label, part)
            result.append(label)
        elif all(part is None for part in parts):
            result.append(None)
        else:
            result.append(
                np.concatenate(
                    [
                        np.zeros(t.shape[dim], np.int64) if part is None else part
                        for t, part in zip(tensors, parts, strict=True)
                    ]
                )
            )
    return [result]


@rule("t", "transpose", "permute")
def _reorder(
    atoms: Atoms, labels: Lookup, args: Sequence[Any], outs: Sequence[Tensor]
) -> list[Labels]:
    x = labels(args[0])
    order = list(range(len(x)))
    if len(args) == 2:
        order = [d % len(x) for d in args[1]]
    elif len(args) == 3:
        i, j = args[1] % len(x), args[2] % len(x)
        order[i], order[j] = j, i
    else:
        order.reverse()
    return [[x[d] for d in order]]


@rule("unsqueeze")
def _unsqueeze(
    atoms: Atoms, labels: Lookup, args: Sequence[Any], outs: Sequence[Tensor]
) -> list[Labels]:
    x = labels(args[0])
    x.insert(args[1] % outs[0].dim(), None)
    return [x]


@rule("slice", "select", "split", "split_with_sizes", "chunk", "unbind", "narrow")
def _cut(atoms: Atoms, labels: Lookup, args: Sequence[Any], outs: Sequence[Tensor]) -> list[Labels]:
    x, rank = labels(args[0]), args[0].dim()
    whole = len(outs) == 1
    if whole and outs[0].dim() == rank - 1:  # select: an index, gone
        dim = args[1] % rank
        atoms.fix(x[dim])
        return [x[:dim] + x[dim + 1 :]]
    if outs[0].dim() != rank:
        raise RefusedError("unbind of a labelled tensor")
    if whole and outs[0].shape == args[0].shape:
        return [x]
    if whole:
        dim = args[1] % rank
        start = args[2] if len(args) > 2 and args[2] is not None else 0
        step = args[4] if len(args) > 4 else 1
        size = args[0].shape[dim]
        first = start + size if start < 0 else start
        index = [np.arange(outs[0].shape[dim]) * step + first]
    else:
        dim = (args[2] if len(args) > 2 else 0) % rank
        ends = np.cumsum([out.shape[dim] for out in outs])
        index = [np.arange(e - out.shape[dim], e) for e, out in zip(ends, outs, strict=True)]
    cut = x[dim]
    return [[*x[:dim], None if cut is None else cut[i], *x[dim + 1 :]] for i in index]


@rule("constant_pad_nd")
def _pad(atoms: Atoms, labels: Lookup, args: Sequence[Any], outs: Sequence[Tensor]) -> list[Labels]:
    x = labels(args[0])
    pads = args[1]
    for i in range(len(pads) // 2):
        dim, (before, after) = len(x) - 1 - i, pads[2 * i : 2 * i + 2]
        label = x[dim]
        if label is None:
            continue
        if before < 0 or after < 0:
            raise RefusedError("negative padding along channels")
        zeros = [np.zeros(n, np.int64) for n in (before, after)]
        x[dim] = np.concatenate([zeros[0], label, zeros[1]])
    return [x]


@rule("embedding")
def _embedding(
    atoms: Atoms, labels: Lookup, args: Sequence[Any], outs: Sequence[Tensor]
) -> list[Labels]:
    rows, columns = labels(args[0])
    atoms.fix(rows)
    return [[*[None] * args[1].dim(), columns]]


@rule("view", "_unsafe_view", "reshape", "expand", "squeeze", "flatten", "_reshape_alias")
def _view(
    atoms: Atoms, labels: Lookup, args: Sequence[Any], outs: Sequence[Tensor]
) -> list[Labels]:
    """Merge and split dimensions; merging repeats a label, a true split fixes it."""
    x, old, new = labels(args[0]), list(args[0].shape), list(outs[0].shape)
    if args[0].numel() != outs[0].numel():  # expand: sizes 1 grow, dimensions come in front
        in_front: Labels = [None] * (len(new) - len(old))
        return _spread(in_front + x, outs)
    result: Labels = []
    for ins, shape in _matching_runs(old, new):
        parts = [(x[d], old[d]) for d in ins if old[d] != 1]
        label = _merged(atoms, parts)
        wide = [n for n in shape if n != 1]
        if len(wide) > 1:
            atoms.fix(label)
            label = None
        result.extend(label if n != 1 else None for n in shape)
    return [result]


def _merged(atoms: Atoms, parts: Sequence[tuple[Label, int]]) -> Label:
    """The label of several dimensions flattened into one, outermost first."""
    labelled = [i for i, (label, _) in enumerate(parts) if label is not None]
    if not labelled:
        return None
    if len(labelled) > 1:
        for label, _ in parts:
            atoms.fix(label)
        return None
    at = labelled[0]
    label = parts[at][0]
    assert label is not None
    inner = int(np.prod([n for _, n in parts[at + 1 :]], dtype=np.int64))
    outer = int(np.prod([n for _, n in parts[:at]], dtype=np.int64))
    return np.tile(np.repeat(label, inner), outer)


def _matching_runs(old: list[int], new: list[int]) -> list[tuple[list[int], list[int]]]:
    """Cut two shapes of equal product into the shortest runs of equal product.

    Returns:
        Pairs of old dimension numbers and new sizes.

    """
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        ins, shape = ([i], [old[i]]) if i < len(old) else ([], [])
        outs = [new[j]] if j < len(new) else []
        i, j = i + len(ins), j + len(outs)
        while np.prod(shape, dtype=np.int64) != np.prod(outs, dtype=np.int64):
            if np.prod(shape, dtype=np.int64) < np.prod(outs, dtype=np.int64):
                ins.append(i)
                shape.append(old[i])
                i += 1
            else:
                outs.append(new[j])
                j += 1
        runs.append((ins, outs))
    return runs
