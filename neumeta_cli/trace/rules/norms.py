"""Norms, softmax and reductions: what is summed over makes up blocks of the rest."""

from collections.abc import Sequence

from neumeta_cli.trace.combine import closed, combine
from neumeta_cli.trace.factors import flatten_dim, reduce, view
from neumeta_cli.trace.labels import Labels
from neumeta_cli.trace.rules.pointwise import broadcast, plain_outputs
from neumeta_cli.trace.rules.table import Call, rule


def _affine(call: Call, x: Labels, names: Sequence[str], first: int) -> Labels:
    """Tie per-channel tensors to the dimensions of ``x`` from ``first`` on."""
    rank = len(x)
    operands = [(x, range(rank))]
    for name in names:
        if (own := call.labels(name)) is not None:
            operands.append((own, range(first, first + len(own))))
    return combine(call.atoms, operands, range(rank))


def _with_statistics(call: Call, out: Labels) -> list[Labels]:
    return [out, *(call.atoms.plain(o.shape) for o in call.outs[1:])]


@rule("""
    _native_batch_norm_legit_no_training native_batch_norm cudnn_batch_norm miopen_batch_norm
    _native_batch_norm_legit _native_batch_norm_legit_functional _batch_norm_with_update
    _batch_norm_no_update
""")
def batch_norm(call: Call) -> list[Labels]:
    """Dimension 1 is normalised by its own statistics."""
    x = call.x
    closed(call.atoms, x, [d for d in range(len(x)) if d != 1])
    statistics = ["weight", "bias", "running_mean", "running_var"]
    return _with_statistics(call, _affine(call, x, statistics, 1))


@rule("native_layer_norm")
def layer_norm(call: Call) -> list[Labels]:
    """The last dimensions are normalised together."""
    x = call.x
    first = len(x) - len(call.arg("normalized_shape"))
    closed(call.atoms, x, range(first, len(x)))
    return _with_statistics(call, _affine(call, x, ["weight", "bias"], first))


@rule("_fused_rms_norm rms_norm")
def rms_norm(call: Call) -> list[Labels]:
    """The last dimensions are divided by their root mean square."""
    x = call.x
    first = len(x) - len(call.arg("normalized_shape"))
    closed(call.atoms, x, range(first, len(x)))
    return _with_statistics(call, _affine(call, x, ["weight"], first))


@rule("native_group_norm")
def group_norm(call: Call) -> list[Labels]:
    """Groups of channels are normalised together with all of space."""
    atoms, groups, shape = call.atoms, call.arg("group"), call.first.shape
    x = flatten_dim(atoms, _affine(call, call.x, ["weight", "bias"], 1), 1)
    parted = view(atoms, x, [shape[0], groups, shape[1] // groups, *shape[2:]])
    closed(atoms, parted, range(2, len(parted)))
    merged = [parted.dims[0], parted.dims[1] + parted.dims[2], *parted.dims[3:]]
    return _with_statistics(call, parted.with_dims(merged))


@rule("_softmax _log_softmax _safe_softmax")
def softmax(call: Call) -> list[Labels]:
    """One dimension is normalised."""
    return [closed(call.atoms, call.x, call.dims())]


@rule("""
    mean sum amax amin prod linalg_vector_norm norm var std var_mean std_mean logsumexp any all
    nansum
""")
def reduction(call: Call) -> list[Labels]:
    """Some dimensions are summed away."""
    made = reduce(call.atoms, call.x, call.dims(), bool(call.arg("keepdim", False)))
    return [made] * len(call.outs)


@rule("max min aminmax median")
def extremum(call: Call) -> list[Labels]:
    """The largest along one dimension, and where it stands; or of two tensors, or of all."""
    if len(call.tensors) > 1:
        return broadcast(call)
    x = call.x
    if call.arg("dim") is None:
        return [reduce(call.atoms, x, range(len(x)), False)] * len(call.outs)
    dims, keep = call.dims(), bool(call.arg("keepdim", False))
    if len(call.outs) == 2:  # an index tells places apart
        x = call.atoms.pin(x, dims)
    return [reduce(call.atoms, x, dims, keep)] * len(call.outs)


@rule("argmax argmin")
def place(call: Call) -> list[Labels]:
    """Where the largest stands."""
    x, dims = call.x, call.dims()
    return [reduce(call.atoms, call.atoms.pin(x, dims), dims, bool(call.arg("keepdim", False)))]


@rule("_weight_norm_interface")
def weight_norm(call: Call) -> list[Labels]:
    """A direction divided by its length over all dimensions but one, times a magnitude."""
    v, g = call.given("v"), call.given("g")
    dim = call.arg("dim", 0)
    closed(call.atoms, v, [d for d in range(len(v)) if d != dim])
    made = combine(call.atoms, [(v, range(len(v))), (g, range(len(g)))], range(len(v)))
    return [made, *plain_outputs(call)[1:]]
