"""Which cliques of a network morph."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from neumeta_cli.errors import NeumetaError
from neumeta_cli.resize.layouts import Layout, held_dims
from neumeta_cli.trace import Clique, Trace


def resolve_scope(
    trace: Trace, scope: str | Sequence[str], layouts: Mapping[str, Layout]
) -> tuple[str, ...]:
    """The cliques that morph.

    Args:
        trace: of the network as it is fitted.
        scope: ``all``; ``paper``, the inner channels of the last block; or patterns of clique
            names such as ``layer3.*``.
        layouts: of the network's parameters.

    Raises:
        NeumetaError: a pattern that fits no clique, or only cliques that cannot change.

    """
    free = [c for c in trace.cliques if not why_held(c, layouts)]
    if not free:
        raise NeumetaError("no clique of this network can change its width; see: neumeta trace")
    if scope == "all":
        return tuple(c.name for c in free)
    if scope == "paper":
        return tuple(c.name for c in _last_block(free))
    chosen: list[str] = []
    for pattern in [scope] if isinstance(scope, str) else scope:
        found = [c for c in trace.cliques if fnmatchcase(c.name, pattern)]
        if not found:
            names = ", ".join(c.name for c in trace.cliques)
            raise NeumetaError(f"scope {pattern!r} fits no clique; there are: {names}")
        for clique in found:
            if reason := why_held(clique, layouts):
                raise NeumetaError(f"scope {pattern!r}: clique {clique.name} is held: {reason}")
            chosen.append(clique.name)
    return tuple(dict.fromkeys(chosen))


def why_held(clique: Clique, layouts: Mapping[str, Layout]) -> str:
    """Why a clique cannot morph, empty if it can."""
    if clique.held:
        return clique.held
    for member in clique.members:
        if held_dims(layouts, member.weight, member.dim):
            return f"{member} is neither an input nor an output dimension"
    return ""


def _last_block(cliques: Sequence[Clique]) -> list[Clique]:
    """The last clique, and with it those that lie wholly in the same block."""
    last = cliques[-1]
    block = last.name.rpartition(".")[0]

    def inside(clique: Clique) -> bool:
        return all(m.weight.startswith(block + ".") for m in clique.members)

    return [c for c in cliques if block and inside(c)] or [last]
