"""All weights of a selected INR at once, where starting operations takes longer than the numbers.

A small network has as many tensors as a large one, and a fit makes them anew in every step: with a
few operations for each of them and its gradient, these take as long as some of its layers to run.
Without noise a weight is the checkpoint's own plus some of the changes' numbers, at places that
the network's sizes say. They are kept as one row of numbers for each set of sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neumeta_cli.cache import held_bytes

MOST_WEIGHTS = 1 << 19  # of the checkpoint; a plan takes up to 16 bytes for each that is left

Kept = tuple[Tensor | None, Tensor | None]  # places along output and input channels; None: all


@dataclass(frozen=True)
class PlannedChange:
    """What the changes at one knot add.

    Attributes:
        knot: which one.
        tensors: numbers of those that it changes.
        at: (n,) places in the changes of these, one after another, and a zero at the end.
        shares: (t,) what the change of each tensor counts; None where all count 1.

    """

    knot: int
    tensors: tuple[int, ...]
    at: Tensor
    shares: Tensor | None


@dataclass(frozen=True)
class Plan:
    """How tensors of some sizes are made.

    Attributes:
        counts: how many weights each has.
        lengths: (t,) the same.
        base: (n,) the checkpoint's own weights.
        changes: what is added to them.

    """

    counts: tuple[int, ...]
    lengths: Tensor
    base: Tensor
    changes: tuple[PlannedChange, ...]

    def make(self, changes: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """The weights of each tensor in a row, from its change at every knot."""
        made = self.base
        for change in self.changes:
            rows = [changes[number][change.knot].flatten() for number in change.tensors]
            more = torch.cat([*rows, made.new_zeros(1)]).index_select(0, change.at)
            if change.shares is not None:
                n = len(made)
                more = more * change.shares.repeat_interleave(self.lengths, output_size=n)
            made = made + more
        return list(made.split(self.counts))


class Planned:
    """Makes tensors by a plan from changes as they are then.

    Args:
        plan: of the tensors.
        changes: for each tensor its change at every knot, which the fit changes.
        shapes: of the tensors.

    """

    def __init__(
        self,
        plan: Plan,
        changes: Sequence[Sequence[Tensor]],
        shapes: Sequence[tuple[int, ...]],
    ) -> None:
        self.plan, self.changes, self.shapes = plan, changes, shapes
        self.nbytes = held_bytes(plan)

    def __call__(self) -> list[Tensor]:
        made = self.plan.make(self.changes)
        return [weights.view(shape) for weights, shape in zip(made, self.shapes, strict=True)]


def make_plan(
    whole: Sequence[Tensor],
    changes: Sequence[Sequence[Tensor]],
    shares: Sequence[Sequence[float]],
    kept: Sequence[Kept],
    rooms: Sequence[Sequence[Mapping[int, Tensor]]],
) -> Plan:
    """Find where the numbers of tensors come from.

    Args:
        whole: the checkpoint's tensors.
        changes: for each of them its change at every knot.
        shares: and what that counts.
        kept: which of its channels are left.
        rooms: by dimension, the channels that the change at every knot has; others have all.

    """
    own = [_kept(tensor, places).flatten() for tensor, places in zip(whole, kept, strict=True)]
    base = torch.cat(own)
    counts = tuple(len(weights) for weights in own)
    lengths = torch.tensor(counts, device=base.device)
    planned = []
    for knot in range(max(map(len, shares))):
        some = [number for number, own_shares in enumerate(shares) if own_shares[knot] > 0]
        if not some:
            continue
        starts, start = {}, 0
        for number in some:
            starts[number] = start
            start += changes[number][knot].numel()
        at = []
        for number, tensor in enumerate(whole):
            places = base.new_full(tensor.shape, start, dtype=torch.int32)
            if number in starts:
                change = changes[number][knot]
                numbers = torch.arange(change.numel(), dtype=torch.int32, device=base.device)
                inside = _inside(rooms[number][knot], change.shape, base.device)
                places[inside] = numbers.view(change.shape) + starts[number]
            at.append(_kept(places, kept[number]).flatten())
        weights = [own_shares[knot] for own_shares in shares]
        row = None
        if any(weight not in (0, 1) for weight in weights):  # what counts 0 is the zero at the end
            row = base.new_tensor(weights)
        planned.append(PlannedChange(knot, tuple(some), torch.cat(at), row))
    return Plan(counts, lengths, base, tuple(planned))


def _kept(tensor: Tensor, kept: Kept) -> Tensor:
    for dim, places in enumerate(kept):
        if places is not None and dim < tensor.dim():
            tensor = tensor.index_select(dim, places)
    return tensor


def _inside(
    room: Mapping[int, Tensor], shape: torch.Size, device: torch.device
) -> tuple[Tensor, ...]:
    """Where a change lies in its tensor, as an index."""
    along = [room.get(d, torch.arange(n, device=device)) for d, n in enumerate(shape)]
    return torch.meshgrid(*along, indexing="ij")
