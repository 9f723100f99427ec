"""Which cliques can change width, and which numbers in modules follow: found by trying."""

from dataclasses import replace

from torch import nn

from neumeta_cli.resize.blocks import blocks_first, blocks_too, kept_alike
from neumeta_cli.resize.trial import Search, runs_at
from neumeta_cli.trace import Inputs, Patch, Trace, on_meta

TRIAL_WIDTHS = (0.15, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9)  # of blocks, of which there may be few
SKEW = 0.06


def resizable(model: nn.Module, trace: Trace, inputs: Inputs, heads: str = "width") -> Trace:
    """Find the cliques that cannot change width and the numbers that follow those that can.

    Args:
        model: the traced network.
        trace: its trace.
        inputs: as given to ``trace_model``.
        heads: what a width changes where channels lie in blocks that may change places, such as
            attention heads: ``width``, the channels inside them; ``count``, how many there are; or
            ``both``, each of them, with widths of their own. Where the network does not run so, the
            former is taken.

    Returns:
        The trace with ``patches``, and a reason in ``held`` of cliques that keep their width.

    """
    base = on_meta(model)
    if heads == "width":
        return _settled(base, trace, inputs, blocks=False)
    count = _settled(base, blocks_first(trace), inputs, blocks=True)
    runs = runs_at(base, count, inputs, TRIAL_WIDTHS)
    if heads == "count" and runs:
        return count
    width = _settled(base, trace, inputs, blocks=False)
    if heads == "both" and runs:
        both = replace(blocks_too(trace), patches=_agreed(count, width))
        found = _settled(base, both, inputs, blocks=True)
        if _stuck(found) <= _stuck(count) & _stuck(width):
            return found if runs_at(base, found, inputs, TRIAL_WIDTHS) else count
        return count
    return width


def _settled(base: nn.Module, trace: Trace, inputs: Inputs, blocks: bool) -> Trace:
    # Widths that differ tell whose size a number is; some networks want them alike.
    search = Search(base, replace(trace, alike=()), inputs, SKEW)
    search.settle_all()
    tied = search.tied()
    if search.held or (blocks and tied):
        alike = Search(base, trace, inputs, 0)
        alike.settle_all()
        if alike.parameters_held() <= search.parameters_held():
            freed = (search.held.keys() | tied) - alike.held.keys()
            found = alike.told(kept_alike(trace, freed))
            if runs_at(base, found, inputs, TRIAL_WIDTHS):
                return found
    if tied:
        return search.told(kept_alike(trace, tied))
    return search.told(search.trace if blocks else trace)  # blocks are a coarse measure to keep


def _agreed(*traces: Trace) -> tuple[Patch, ...]:
    """The numbers that follow something in one of these, and nothing else in another."""
    found: dict[tuple[str, str, int | None], set[Patch]] = {}
    for patch in (patch for trace in traces for patch in trace.patches):
        found.setdefault((patch.module, patch.attribute, patch.place), set()).add(patch)
    return tuple(next(iter(patches)) for patches in found.values() if len(patches) == 1)


def _stuck(trace: Trace) -> set[str]:
    """Cliques that keep their width, but for those whose width another has."""
    return {c.name for c in trace.cliques if c.held and not c.order_only}
