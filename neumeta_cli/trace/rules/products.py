"""Sums of products: matrices, convolutions, tables."""

from neumeta_cli.trace.combine import combine
from neumeta_cli.trace.factors import flatten_dim, mixed, reduce, view
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
    names = "gio" if call.arg("transposed") else "goi"
    return grouped_product(call, call.arg("groups"), names, _is_local(call))


def grouped_product(call: Call, groups: int, names: str, local: bool) -> list[Labels]:
    """A convolution of any kind.

    Args:
        call: with ``input``, ``weight`` and ``bias``.
        groups: that channels are summed in.
        names: what the first dimensions of the weight are, the groups taken apart.
        local: each place in space is read alone; then places may move, should they be labelled.

    """
    atoms, shape = call.atoms, call.arg("input").shape
    x, weight, bias = call.given("input"), call.given("weight"), call.labels("bias")
    rank = len(x)
    x = flatten_dim(atoms, x, 1)
    x = x if local else atoms.pin(x, range(2, rank))
    x = view(atoms, x, [shape[0], groups, shape[1] // groups, *shape[2:]])
    kernel = call.arg("weight").shape
    weight = atoms.pin(weight, range(2, rank))
    for dim in (0, 1):
        weight = flatten_dim(atoms, weight, dim)
    weight = view(atoms, weight, [groups, kernel[0] // groups, *kernel[1:]])
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


@rule("_cdist_forward cdist")
def distances(call: Call) -> list[Labels]:
    """(…, P, M) and (…, R, M) to (…, P, R): sums over the last dimension."""
    first, second, rank = call.given("x1"), call.given("x2"), len(call.shape)
    batch = list(range(rank - 2))
    left, right = ([*batch[rank - len(x) :], n, "k"] for x, n in ((first, "i"), (second, "j")))
    return [combine(call.atoms, [(first, left), (second, right)], [*batch, "i", "j"])]


@rule("_trilinear")
def trilinear(call: Call) -> list[Labels]:
    """Products of three tensors, each without some of the dimensions, of which some are summed."""
    operands, rank = [], call.first.dim() + len(call.arg("expand1"))
    for number in (1, 2, 3):
        absent = {d % rank for d in call.arg(f"expand{number}")}
        operands.append((call.given(f"i{number}"), [d for d in range(rank) if d not in absent]))
    summed = {d % rank for d in call.arg("sumdim")}
    return [combine(call.atoms, operands, [d for d in range(rank) if d not in summed])]


@rule("_pdist_forward pdist")
def pairs(call: Call) -> list[Labels]:
    """(N, M) to the distances of all pairs of rows."""
    atoms = call.atoms
    reduce(atoms, atoms.pin(call.x, [0]), [1], keep=False)
    return [atoms.plain(call.shape)]


@rule("embedding")
def embedding(call: Call) -> list[Labels]:
    """Rows of a table; which row is for the input to say."""
    atoms, weight, indices = call.atoms, call.given("weight"), call.given("indices")
    atoms.fix_all(indices)
    column = mixed(atoms, weight, [0], [1])
    return [column.with_dims([*atoms.plain(call.shape[:-1]).dims, column.dims[1]])]
