"""How the weights and changes of a selected INR are rounded in a compact file."""

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence

from torch import Tensor

from neumeta_cli.resize import place_channels

WHOLE = 32.0  # levels of the largest tensor
CHANGES = 10.0  # of the first change to it, and twice as many for the one after the next
DEEP = 20.0
ADDITIONS = "additions"
MOST = 127  # of 8 bits


def part_of(name: str, knots: Sequence[float]) -> str:
    """What a tensor of the INR's state is, for people."""
    stem, _, number = name.rpartition(".")
    kind = stem.rpartition(".")[2]
    if stem == ADDITIONS:
        return "blocks that are added"
    if kind == "changes":
        return f"changes to γ {knots[int(number)]:g}"
    if kind == "deep":
        return "changes by depth"
    return "weights" if number == "whole" else "order of channels"


def levels_of(name: str, tensor: Tensor, largest: int) -> int:
    """The levels of a tensor, the fewer the larger it is.

    The error of an output channel, relative to its largest weight, counts alike in all tensors, and
    bits are paid for by the weight. Of all steps that take as many bytes, those do least harm whose
    squares are proportional to the number of weights.

    Args:
        name: of the tensor.
        tensor: of which only the size counts.
        largest: weights of the largest tensor.

    """
    stem, _, number = name.rpartition(".")
    base = {"changes": CHANGES, "deep": DEEP, ADDITIONS: DEEP}.get(stem.rpartition(".")[2], WHOLE)
    if base == CHANGES:
        base *= math.sqrt(2) ** int(number)
    return max(1, min(MOST, round(base * math.sqrt(largest / max(1, tensor.numel())))))


def carry_on(
    state: MutableMapping[str, Tensor],
    grid: str,
    rooms: Sequence[Mapping[int, Tensor]],
    rounded: Callable[[str, Tensor], Tensor],
) -> None:
    """Add what rounding takes from a tensor to its first change, from that to the second.

    What is left at a knot is the rounding of its own change, not the sum of all before it.

    Args:
        state: of the INR; the changes in it are replaced.
        grid: the name of the tensor's grid.
        rooms: for each change, the places of its channels by dimension.
        rounded: what becomes of a tensor of some name.

    """
    whole = state[f"{grid}.whole"]
    lost = whole - rounded(f"{grid}.whole", whole)
    for number, room in enumerate(rooms):
        name = f"{grid}.changes.{number}"
        for dim, places in room.items():
            lost = lost.index_select(dim, places)
        state[name] = state[name] + lost
        lost = place_channels(state[name] - rounded(name, state[name]), room, whole.shape)
