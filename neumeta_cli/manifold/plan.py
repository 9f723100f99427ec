"""All weights of a selected INR at once, where starting operations takes longer than the numbers.

A small network has as many tensors as a large one, and a fit makes them anew in every step: with a
few operations for each of them and its gradient, these take as long as some of its layers to run.
Without noise a weight is the checkpoint's own plus some of the changes' numbers, at places that
the network's sizes say. They are kept as one row of numbers for each set of sizes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neumeta_cli.manifold.coordinates import Target

MOST_WEIGHTS = 1 << 19  # of the checkpoint; a plan takes up to 16 bytes for each that is left


@dataclass(frozen=True)
class PlannedChange:
    """What the changes at one knot add.

    Attributes:
        knot: which one.
        names: of the tensors that it changes.
        at: (n,) places in the changes of these, one after another, and a zero at the end.
        shares: (t,) what the change of each tensor counts; None where all count 1.

    """

    knot: int
    names: tuple[str, ...]
    at: Tensor
    shares: Tensor | None


@dataclass(frozen=True)
class Plan:
    """How tensors of some sizes are made.

    Attributes:
        targets: the tensors.
        lengths: (t,) how many weights each has.
        base: (n,) the checkpoint's own weights.
        changes: what is added to them.

    """

    targets: Sequence[Target]
    lengths: Tensor
    base: Tensor
    changes: tuple[PlannedChange, ...]

    def make(self, changes: Mapping[str, Sequence[Tensor]]) -> list[Tensor]:
        """The tensors, from each one's change at every knot."""
        made = self.base
        for change in self.changes:
            rows = [changes[name][change.knot].flatten() for name in change.names]
            more = torch.cat([*rows, made.new_zeros(1)]).index_select(0, change.at)
            if change.shares is not None:
                n = len(made)
                more = more * change.shares.repeat_interleave(self.lengths, output_size=n)
            made = made + more
        pieces = made.split([math.prod(t.shape) for t in self.targets])
        return [piece.view(t.shape) for piece, t in zip(pieces, self.targets, strict=True)]


def selects_only(target: Target) -> bool:
    """Whether a tensor has channels that are kept, and none between two of them."""
    sizes = (target.c_out, target.c_in)
    return all(
        size == (full if kept is None else len(kept))
        for size, full, kept in zip(sizes, target.spec.shape, target.kept, strict=False)
    )


def make_plan(
    targets: Sequence[Target],
    whole: Mapping[str, Tensor],
    changes: Mapping[str, Sequence[Tensor]],
    shares: Mapping[str, Sequence[float]],
) -> Plan:
    """Find where the numbers of tensors come from.

    Args:
        targets: all of which select only.
        whole: the checkpoint's tensors.
        changes: for each tensor its change at every knot.
        shares: and what it counts there.

    """
    own = [_kept(whole[t.spec.name], t).flatten() for t in targets]
    base = torch.cat(own)
    lengths = torch.tensor([len(weights) for weights in own], device=base.device)
    planned = []
    for knot in range(max(len(counts) for counts in shares.values())):
        some = [t for t in targets if shares[t.spec.name][knot] > 0]
        if not some:
            continue
        starts, start = {}, 0
        for target in some:
            starts[target.spec.name] = start
            start += changes[target.spec.name][knot].numel()
        at = []
        for target in targets:
            places = base.new_full(target.spec.shape, start, dtype=torch.int32)
            if target.spec.name in starts:
                change = changes[target.spec.name][knot]
                numbers = torch.arange(change.numel(), dtype=torch.int32, device=base.device)
                inside = _inside(target.rooms[knot], change.shape, base.device)
                places[inside] = numbers.view(change.shape) + starts[target.spec.name]
            at.append(_kept(places, target).flatten())
        counts = [shares[t.spec.name][knot] for t in targets]
        row = None
        if any(count not in (0, 1) for count in counts):  # what counts 0 is the zero at the end
            row = base.new_tensor(counts)
        names = tuple(t.spec.name for t in some)
        planned.append(PlannedChange(knot, names, torch.cat(at), row))
    return Plan(targets, lengths, base, tuple(planned))


def _kept(tensor: Tensor, target: Target) -> Tensor:
    for dim, kept in enumerate(target.kept):
        if kept is not None and dim < tensor.dim():
            tensor = tensor.index_select(dim, kept)
    return tensor


def _inside(
    room: Mapping[int, Tensor], shape: torch.Size, device: torch.device
) -> tuple[Tensor, ...]:
    """Where a change lies in its tensor, as an index."""
    along = [room.get(d, torch.arange(n, device=device)) for d, n in enumerate(shape)]
    return torch.meshgrid(*along, indexing="ij")
