"""Sums of products: matrices, convolutions, tables."""

from neumeta_cli.trace.combine import combine
from neumeta_cli.trace.factors import flatten_dim, mixed, view
from neumeta_cli.trace.labels import Labels
from neumeta_cli.trace.rules.pointwise import spread
from neumeta_cli.trace.rules.table import Call, rule

EQUATIONS = {
    "mm": ("ik", "kj", "ij"),
    "bmm": ("bik", "bkj", "bij"),
    "mv": ("ik", "k", "i"),
    "dot": ("i", "i", ""),
    "vdot": ("i", "i", ""),
    "addmm": ("ik", "kj", "ij"),
    "addmv": ("ik", "k", "i"),
    "baddbmm": ("bik", "bkj", "bij"),
    "baddbmm_": ("bik", "bkj", "bij"),
    "addbmm": ("bik", "bkj", "ij"),
}


@rule(" ".join(EQUATIONS))
def matrix_product(call: Call) -> list[Labels]:
    """A product of two matrices or batches of matrices, for some with a term added."""
    *terms, a, b = (call.lookup(t) for t in call.tensors)
    left, right, out = EQUATIONS[call.func.overloadpacket.__name__]
    product = combine(call.atoms, [(a, left), (b, right)], out)
    return [spread(call.atoms, [*terms, product], len(out)) if terms else product]


@rule("convolution")
def convolution(call: Call) -> list[Labels]:
    """Channels are summed within groups; places in space and in the kernel stay."""
    atoms, shape, groups = call.atoms, call.arg("input").shape, call.arg("groups")
    x, weight, bias = call.given("input"), call.given("weight"), call.labels("bias")
    rank = len(x)
    local = _is_local(call)  # then places in space may move, should they be labelled
    x = flatten_dim(atoms, x, 1)
    x = x if local else atoms.pin(x, range(2, rank))
    x = view(atoms, x, [shape[0], groups, shape[1] // groups, *shape[2:]])
    kernel = call.arg("weight").shape
    weight = atoms.pin(weight, range(2, rank))
    for dim in (0, 1):
        weight = flatten_dim(atoms, weight, dim)
    weight = view(atoms, weight, [groups, kernel[0] // groups, *kernel[1:]])
    names = "gio" if call.arg("transposed") else "goi"
    inside = [f"x{d}" for d in range(2, rank)]
    taps = [f"k{d}" for d in range(2, rank)]
    operands = [(x, ["b", "g", "i", *inside]), (weight, [*names, *taps])]
    if bias is not None:
        outputs = call.shape[1]
        operands.append((view(atoms, bias, [groups, outputs // groups]), ["g", "o"]))
    made = combine(atoms, operands, ["b", "g", "o", *(inside if local else [])])
    space = made.dims[3:] if local else atoms.plain(call.shape[2:]).dims
    return [made.with_dims([made.dims[0], made.dims[1] + made.dims[2], *space])]


def _is_local(call: Call) -> bool:
    """Whether each place in space is read alone, as by 1×1 kernels."""
    kernel = call.arg("weight").shape[2:]
    return set(kernel) == {1} and set(call.arg("stride")) == {1} and set(call.arg("padding")) == {0}


@rule("embedding")
def embedding(call: Call) -> list[Labels]:
    """Rows of a table; which row is for the input to say."""
    atoms, weight, indices = call.atoms, call.given("weight"), call.given("indices")
    atoms.fix_all(indices)
    column = mixed(atoms, weight, [0], [1])
    return [column.with_dims([*atoms.plain(call.shape[:-1]).dims, column.dims[1]])]
