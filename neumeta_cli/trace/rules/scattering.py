"""Writing to places that an index tensor names."""

from neumeta_cli.trace.combine import combine
from neumeta_cli.trace.factors import mixed
from neumeta_cli.trace.labels import Labels
from neumeta_cli.trace.rules.table import Call, rule


@rule("""
    scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_
""")
def scatter(call: Call) -> list[Labels]:
    """Elements go where an index of as many dimensions says, along one of them.

    Along the other dimensions each element stays at its place, which may move where all three
    tensors are equally long.
    """
    dim, shape = call.dims()[0], call.shape
    names = [name for name in ("index", "src") if call.labels(name) is not None]
    sizes = [call.first.shape, *(call.arg(name).shape for name in names)]
    pinned = [d for d in range(len(shape)) if d == dim or len({s[d] for s in sizes}) > 1]
    operands = [call.x, *(call.given(name) for name in names)]
    return [_written(call, operands, pinned)]


@rule("index_add index_add_ index_copy index_copy_ index_fill index_fill_ index_reduce")
def along_index(call: Call) -> list[Labels]:
    """Slices along one dimension go where a list of places says."""
    call.atoms.fix_all(call.given("index"))
    source = call.labels("source")
    operands = [call.x] if source is None else [call.x, source]
    return [_written(call, operands, call.dims())]


def _written(call: Call, operands: list[Labels], pinned: list[int]) -> Labels:
    """Tensors that run together but along ``pinned``, where their sizes may differ."""
    names, sizes = range(len(call.shape)), [call.shape[d] for d in pinned]
    plain = [(mixed(call.atoms, labels, pinned, sizes), names) for labels in operands]
    return combine(call.atoms, plain, names)
