"""What a selected INR is asked for: a tensor, and which of the checkpoint's channels it has."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from neumeta_cli.manifold.inr.coordinates import Noise, Target
from neumeta_cli.manifold.inr.plan import Kept
from neumeta_cli.resize import place_channels


@dataclass(frozen=True)
class SelectedTarget(Target):
    """A tensor to generate, and which of the checkpoint's channels it begins with.

    Attributes:
        kept: places along the checkpoint's output and input dimension; None for all.
        rooms: for the change at each knot, by dimension, the places of the channels that it has;
            then for each knot of depth.
        times: (c_in,) how often each input channel is there, where some are more than once.
        depth: what the change at each knot of depth counts; empty where no block of its run is
            missing.
        short: whether the network lacks blocks, here or elsewhere, and has changes for that.

    """

    kept: Kept = (None, None)
    rooms: tuple[Mapping[int, Tensor], ...] = ()
    times: Tensor | None = None
    depth: tuple[float, ...] = ()
    short: bool = False

    @cached_property
    def met(self) -> tuple[tuple["Met", ...], ...]:
        """For the change at each knot, dimension by dimension, where it and the tensor meet."""
        dims = range(min(2, len(self.spec.shape)))
        return tuple(
            tuple(_meet(room.get(dim), self.kept[dim], self.spec.shape[dim]) for dim in dims)
            for room in self.rooms
        )

    def shared(self, weight: Tensor) -> Tensor:
        """The weight, where inputs that are there more than once share what one of them had."""
        if self.times is not None:
            return weight / self.times.view(-1, *(1,) * (weight.dim() - 2))
        if not self.spec.is_vector and self.c_in > self.spec.shape[1]:
            return weight * (self.spec.shape[1] / self.c_in)
        return weight

    @property
    def selects_only(self) -> bool:
        """Whether it has channels that are kept, and none between two of them."""
        sizes = (self.c_out, self.c_in)
        return all(
            size == (full if kept is None else len(kept))
            for size, full, kept in zip(sizes, self.spec.shape, self.kept, strict=False)
        )


@dataclass(frozen=True)
class Met:
    """Which channels of a change a tensor has, along one dimension.

    Attributes:
        own: their places in the change; None for all, in order.
        there: their places in the tensor; None for all, in order.
        size: channels of the tensor.

    """

    own: Tensor | None
    there: Tensor | None
    size: int


def _meet(room: Tensor | None, kept: Tensor | None, full: int) -> Met:
    """Of a change with the channels ``room`` and a tensor with ``kept``; None: all ``full``."""
    if room is None:
        return Met(kept, None, full if kept is None else len(kept))
    if kept is None:
        return Met(None, room, full)
    shared = torch.isin(kept, room)
    own = torch.searchsorted(room, kept[shared])
    return Met(own, None if bool(shared.all()) else shared.nonzero().flatten(), len(kept))


def times_there(places: Tensor | None, count: int) -> Tensor | None:
    """How often each of ``count`` places is among them; None: they are others, or each is once."""
    if places is None or len(places) != count:
        return None
    times = torch.bincount(places)[places]
    return times if bool((times > 1).any()) else None


def select(
    whole: Tensor, changes: Iterable[Tensor], shares: Sequence[float], target: SelectedTarget
) -> Tensor:
    """The channels that are kept of a sum, taken before they are added up and so many fewer."""
    weight = whole
    for dim, kept in enumerate(target.kept):
        weight = weight if kept is None else weight.index_select(dim, kept)
    for share, change, met in zip(shares, changes, target.met, strict=True):
        if share == 0:
            continue
        some = change
        for dim, at in enumerate(met):
            some = some if at.own is None else some.index_select(dim, at.own)
        some = some if share == 1 else share * some
        there = {dim: at.there for dim, at in enumerate(met) if at.there is not None}
        weight = weight + place_channels(some, there, weight.shape)
    return weight


def share_missing(target: SelectedTarget, noise: Noise | None) -> float:
    """The share of channels that is missing along the dimensions that shrink, on average."""
    sizes = [float(target.c_out), float(target.c_in)]
    if noise is not None and noise.sizes:
        drawn = noise.draw(2, like=torch.empty(0)).tolist()
        sizes = [size + noise.sizes * by for size, by in zip(sizes, drawn, strict=True)]
    shares = [
        1 - size / full
        for size, full, kept in zip(sizes, target.spec.shape, target.kept, strict=False)
        if kept is not None and len(kept) < full
    ]
    return sum(shares) / max(1, len(shares))
