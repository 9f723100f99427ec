"""What hangs on the blocks of a run, and how it follows where one of them goes."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from torch import nn

RATES = ("drop_prob", "p")  # of timm's DropPath, of torchvision's StochasticDepth
DROP_PATHS = ("DropPath", "StochasticDepth")
POSITIONS = "relative_position"


def what_follows(
    model: nn.Module, blocks: Sequence[str], given_more: AbstractSet[str]
) -> tuple[str, ...]:
    """Say what else of a network knows of a run's blocks, and what becomes of it.

    Nothing has to change for any of it: in the place of a block that goes stands one that gives its
    first argument on, so every other block keeps its own place, name, rate and tables.

    Args:
        model: the network.
        blocks: of one run.
        given_more: names of the blocks that take tensors beside the first one.

    Returns:
        A line for each thing that was found.

    """
    found = [
        _taps(model, blocks),
        _rates(model, blocks),
        _positions(model, blocks),
        "what blocks are given beside their input (positions, masks) goes on to the others"
        if not given_more.isdisjoint(blocks)
        else "",
    ]
    return tuple(line for line in found if line)


def _taps(model: nn.Module, blocks: Sequence[str]) -> str:
    """Features that timm's networks name as taken out at a block."""
    info = getattr(model, "feature_info", None)
    named = [row.get("module") for row in info if isinstance(row, dict)] if info else []
    if not any(name in blocks for name in named):
        return ""
    return "features taken out at a block that goes are those that it was given"


def _rates(model: nn.Module, blocks: Sequence[str]) -> str:
    rates = [rate for block in blocks for rate in _rates_of(model.get_submodule(block))]
    if not rates or max(rates) == 0:
        return ""
    return "drop-path rates stay with their blocks"


def _rates_of(block: nn.Module) -> list[float]:
    dropping = [m for m in block.modules() if type(m).__name__ in DROP_PATHS]
    rates = [getattr(m, name, None) for m in dropping for name in RATES]
    return [float(rate) for rate in rates if isinstance(rate, int | float)]


def _positions(model: nn.Module, blocks: Sequence[str]) -> str:
    modules = (model.get_submodule(block) for block in blocks)
    tensors = (name for m in modules for name, _ in (*m.named_parameters(), *m.named_buffers()))
    if not any(POSITIONS in name for name in tensors):
        return ""
    return "tables of relative positions go with their block; the others keep theirs"
