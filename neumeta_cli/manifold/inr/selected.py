"""The INR that begins with the checkpoint's largest channels."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from neumeta_cli.cache import Cache
from neumeta_cli.manifold.inr.base import STORED, Inr, InrSettings, Rated, Store, entry
from neumeta_cli.manifold.inr.compact import carry_on, levels_of, part_of
from neumeta_cli.manifold.inr.coordinates import Noise, Target
from neumeta_cli.manifold.inr.depths import come_in
from neumeta_cli.manifold.inr.grid import Grid, along
from neumeta_cli.manifold.inr.moments import Measure, Normed
from neumeta_cli.manifold.inr.plan import MOST_WEIGHTS, Planned, make_plan
from neumeta_cli.manifold.inr.selection import SelectedTarget, select, share_missing, times_there
from neumeta_cli.resize import (
    added_names,
    channel_counts,
    kept_places,
    place_channels,
    rank_channels,
    ranks_of,
    widened_places,
)

if TYPE_CHECKING:
    from neumeta_cli.resize import Sizes

Places = Mapping[tuple[str, int], Tensor]
PARTS = (0.5, 1.0)  # of the way between two knots, where changes are made to fit at the start
LEAST_SHARE = 0.1  # of a change, below which it is not made to fit


class SelectedSettings(InrSettings):
    """Settings of an INR that selects channels."""

    chooses: ClassVar[bool] = True
    summary: ClassVar[str] = (
        "the checkpoint's largest channels, changed as more of them are missing"
    )

    kind: Literal["selected"] = "selected"
    store: Store = Field("int8", description=STORED)  # else it is larger than its checkpoint
    knots: list[float] = Field(
        [0.25, 0.5, 0.75],
        description="γ at which each change is complete; with none it learns slices of one "
        "network, otherwise the full width stays the checkpoint",
    )
    knot_rates: list[Annotated[float, Field(gt=0)]] = Field(
        [],
        description="factors of the learning rate for the change at each of the knots; empty: "
        "all 1",
    )

    order: Literal["norm", "energy"] = Field(
        "norm",
        description="which channels narrower networks begin with: norm, those of largest ℓ1 norm "
        "of their weights; energy, those that give most to the layers that read them, E[x²]·‖W‖² "
        "on fit.start_images training images (with none: norm)",
    )
    depth_knots: list[float] = Field(
        [0.5, 1.0],
        description="the same for blocks: shares of a run's blocks that may go at which each "
        "change is complete; with none, shorter networks have the weights of longer ones",
    )

    @field_validator("knots")
    @classmethod
    def _ascending(cls, value: list[float]) -> list[float]:
        if any(not 0 < knot < 1 for knot in value) or sorted(set(value)) != value:
            raise ValueError("knots ascend between 0 and 1")
        return value

    @field_validator("depth_knots")
    @classmethod
    def _ascending_to_one(cls, value: list[float]) -> list[float]:
        if any(not 0 < knot <= 1 for knot in value) or sorted(set(value)) != value:
            raise ValueError("knots of depth ascend, above 0 and at most to 1")
        return value

    @model_validator(mode="after")
    def _one_for_each(self) -> Self:
        if self.knot_rates and len(self.knot_rates) != len(self.knots):
            raise ValueError(f"knot_rates: one for each of the {len(self.knots)} knots, or []")
        return self

    @property
    def pieces(self) -> int:
        return len(self.knots) + len(self.depth_knots)


class SelectedInr(Inr):
    """A choice among the checkpoint's channels, and what their number changes in them.

    ``W[o, i] = W_0[p(c_out), q(c_in)] + Σ_k φ_k(m) · G_k[p(c_out), q(c_in)]``, with m the share of
    channels that is missing and φ_k a line from 0 at the knot before κ_k to 1 at κ_k, then flat:
    each knot adds a change to those before it. W_0 is the checkpoint, whose function at full width
    therefore stays as it is. G_k begins at zero and has the channels that are left at the knot
    before its own. At a size p and q give the places of the channels of largest norm, in the
    checkpoint's (smooth) order; between two of them, as under noise, weights are interpolated.
    Above the checkpoint's size the largest channels are there twice, with half of the weights for
    each where they are read: see ``widened_places``. Before any training it prunes by ℓ1 norm.

    With one knot at 1/2 and four channels of norms 3, 1, 4 and 2: three channels are the first, the
    third and the last, m = 1/4 and half of G_1 is added; two are the first and the third, and all
    of it is.

    Blocks go in a measured order. As they do, ``Σ_k φ_k(d) · D_k`` is added to W_0 in the blocks of
    their run that stay and in the layers between that run and the next, with d the share that is
    missing of the run's blocks that may go (knots of depth): full depth stays the checkpoint too.
    Blocks that are added begin as copies of the one before them with nothing to add to what they
    are given; each tensor of a copy has ``A[p(c_out), q(c_in)]``, learnt from zero, beside that.

    Without knots W_0 itself is learnt: the slices of a slimmable network (Yu et al., 2019).
    """

    settings: SelectedSettings
    settings_type = SelectedSettings
    oldest_format = 2

    def begin(self, tensors: Mapping[str, Tensor]) -> None:
        knots = self.settings.knots
        self.keeps_checkpoint = bool(knots)
        self.gammas = (0.0, *knots[:-1]) if knots else ()  # where the changes have their channels
        rooms = [self.turned_shapes(self.frame.sizes(1 - gamma)) for gamma in self.gammas]
        self.grids = nn.ModuleDict()
        follows = self.keeps_checkpoint and self.settings.depth_knots
        self.runs = self.depths.governing(self.specs) if follows else {}
        for name, weight in self.turned(tensors).items():
            changes = [weight.new_zeros(r[name]) for r in rooms]
            deep = [torch.zeros_like(weight) for _ in range(self._deep(name))]
            self.grids[entry(name)] = Grid(weight, changes, deep)
        self.additions = nn.ParameterDict()
        names = {spec.name for spec in self.specs}
        self.depths.keep(self.frame.trace.operators, names)
        for name, weight in self.turned(tensors).items():
            for own in added_names(name, self.depths.added):
                self.additions[entry(own)] = torch.zeros_like(weight)
        for number, clique in enumerate(self.frame.cliques):
            if any(tensors[member.weight].is_meta for member in clique.members):
                ranks = torch.empty(clique.rows, dtype=torch.int32, device="meta")
            else:
                found = rank_channels(clique, tensors, list(self.frame.layouts))
                ranks = torch.from_numpy(found).int()
            self.register_buffer(f"rank_{number}", ranks)
        self._largest = max(math.prod(spec.shape) for spec in self.specs)
        self._chosen: Cache[Places] = Cache()
        self._rooms: Cache[list[Places]] = Cache()

    def _deep(self, name: str) -> int:
        """At how many knots of depth a tensor has a change: those before its block is gone."""
        run = self.runs.get(name)
        last = self.depths.last_coordinate(name, run) if run else 0.0
        begins = [0.0, *self.settings.depth_knots[:-1]][: len(self.settings.depth_knots)]
        return sum(begin < last for begin in begins)

    def changes_by_depth(self) -> list[nn.Parameter]:
        deep = [change for grid in self.grids.values() for change in cast(Grid, grid).deep]
        return [*deep, *self.additions.values()]

    @property
    def learnt(self) -> dict[str, int]:
        moved = [name for name, addition in self.additions.items() if bool(addition.any())]
        return {
            block: count
            for block, count in self.depths.added.items()
            if any(name.startswith(f"{entry(block)}/") for name in moved)
        }

    def addition(self, name: str, target: Target) -> Tensor | None:
        assert isinstance(target, SelectedTarget)
        if (key := entry(name)) not in self.additions:
            return None
        return self._at_size(self.additions[key], target, None)

    def part(self, name: str) -> str:
        return part_of(name, self.settings.knots)

    def levels(self, name: str, tensor: Tensor) -> int:
        return levels_of(name, tensor, self._largest)

    def carry(
        self, state: Mapping[str, Tensor], rounded: Callable[[str, Tensor], Tensor]
    ) -> dict[str, Tensor]:
        made, changes = dict(state), len(self.gammas)
        for target in self.targets(self.frame.full):
            rooms = cast(SelectedTarget, target).rooms[:changes]
            carry_on(made, f"grids.{entry(target.spec.name)}", rooms, rounded)
        return made

    def check(self) -> None:
        for number, clique in enumerate(self.frame.cliques):
            ranks = self.get_buffer(f"rank_{number}").view(clique.copies, clique.channels)
            if bool((ranks.sort(dim=1).values != torch.arange(clique.channels)).any()):
                raise ValueError(f"rank_{number} is no order of channels")

    def order(self, energies: Callable[[], Mapping[str, Tensor]]) -> None:
        if self.settings.order != "energy":
            return
        known = energies()
        for number, clique in enumerate(self.frame.cliques):
            if clique.name in known:
                ranks = torch.from_numpy(ranks_of(known[clique.name], clique))
                self.get_buffer(f"rank_{number}").copy_(ranks)
        self._chosen, self._rooms, self._targets = Cache(), Cache(), Cache()

    @torch.no_grad()
    def start(self, measure: Measure) -> None:
        """Let each change make up for what is missing at its knot: see ``Moments.rebuild``.

        Between two knots, channels that are gone at the second get the change of the narrowest
        network that has them among a few between, as far as it goes on along its line.
        """
        if not self.keeps_checkpoint:
            return
        last = self.chosen(self.frame.sizes(1 - self.settings.knots[-1]))
        wanted = [s.name for s in self.specs if (s.name, s.layout.into) in last]
        for name, moments in measure(wanted):
            whole = self._grid_of(name).whole
            self._make_up(name, functools.partial(moments.rebuild, whole), 1)

    @torch.no_grad()
    def refit_norms(self, norms: Iterable[tuple[str, Normed]]) -> None:
        if not self.keeps_checkpoint:
            return
        known = {spec.name for spec in self.specs}
        for module, normed in norms:
            name, bias = f"{module}.weight", f"{module}.bias"
            weight, biased = self._grid_of(name).whole, bias in known
            self._make_up(name, functools.partial(normed.weight_change, weight, biased), 0)
            if biased:
                self._make_up(bias, functools.partial(normed.bias_change, weight), 0)

    def _make_up(self, name: str, change_at: Callable[[Tensor], Tensor], dim: int) -> None:
        """Set the changes of one tensor, the first ones first.

        Args:
            name: of the tensor.
            change_at: how it changes where these channels are kept.
            dim: that they run along, of the turned tensor.

        """
        place = next(n for n, spec in enumerate(self.specs) if spec.name == name)
        grid, before = self._grid_of(name), 0.0
        made: list[Tensor] = []
        for change, knot in zip(grid.changes, self.settings.knots, strict=True):
            added = torch.zeros_like(grid.whole)
            for part in PARTS:
                sizes = self.frame.sizes(1 - before - part * (knot - before))
                target = cast(SelectedTarget, self.targets(sizes)[place])
                *others, share = self._shares(target, None)[: len(made) + 1]
                kept = target.kept[dim]
                if kept is None or share < LEAST_SHARE:
                    continue
                there = sum((s * m for s, m in zip(others, made, strict=True)), torch.zeros(()))
                more = (change_at(kept).to(grid.whole) - there) / share
                added.index_copy_(dim, kept, more.index_select(dim, kept))
            made.append(added)
            for axis, room in target.rooms[len(made) - 1].items():
                added = added.index_select(axis, room)
            change.copy_(added)
            before = knot

    def rated(self) -> Rated:
        if not self.settings.knot_rates:
            return super().rated()
        grids = [cast(Grid, grid) for grid in self.grids.values()]
        changes = zip(*(grid.changes for grid in grids), strict=True)
        rates = self.settings.knot_rates
        rated = [(list(at), rate) for at, rate in zip(changes, rates, strict=True)]
        deep = self.changes_by_depth()
        return [*rated, (deep, 1.0)] if deep else rated

    def chosen(self, sizes: "Sizes") -> Places:
        key = (self.device, *sizes.items())
        return self._chosen.get(key, lambda: self._choose(sizes))

    def _choose(self, sizes: "Sizes") -> Places:
        counts = {}
        for number, clique in enumerate(self.frame.cliques):
            ranks, size = self.get_buffer(f"rank_{number}").cpu().numpy(), sizes[clique.name]
            if size != clique.channels:
                counts[clique.name] = channel_counts(ranks.reshape(clique.copies, -1), size)
        shapes, trace = self.frame.trace.shapes, self.frame.trace
        if all(often.max() <= 1 for often in counts.values()):
            kept = {name: np.flatnonzero(often) for name, often in counts.items()}
            places = kept_places(shapes, trace, kept)
        else:
            places = widened_places(shapes, trace, counts)
        return {place: torch.from_numpy(p).to(self.device) for place, p in places.items()}

    def make_targets(self, sizes: "Sizes", dropped: Sequence[str]) -> Sequence[SelectedTarget]:
        chosen, rooms = self.chosen(sizes), self._rooms.get(self.device, self._make_rooms)
        knots, missing = self.settings.depth_knots, self.depths.missing(dropped)
        wide = any(sizes[clique.name] > clique.channels for clique in self.frame.cliques)
        made = []
        for plain in super().make_targets(sizes, dropped):
            name, layout = plain.spec.name, plain.spec.layout
            dims = [d for d in (layout.out, layout.into) if d is not None]
            places = [chosen.get((name, d)) for d in dims] + [None]
            own = tuple(
                {n: room[name, d] for n, d in enumerate(dims) if (name, d) in room}
                for room in rooms
            )
            at = missing.get(self.runs.get(name, ""), 0.0)
            depth = tuple(come_in(knots, at)[: self._deep(name)]) if at else ()
            size = (plain.spec, plain.c_out, plain.c_in, plain.size_in, plain.place, plain.layers)
            everywhere: tuple[Mapping[int, Tensor], ...] = ({},) * len(depth)
            kept, short = (places[0], places[1]), bool(dropped and self.runs)
            times = times_there(places[1], plain.c_in) if wide else None
            made.append(SelectedTarget(*size, kept, (*own, *everywhere), times, depth, short))
        return made

    def _make_rooms(self) -> list[Places]:
        return [self._choose(self.frame.sizes(1 - gamma)) for gamma in self.gammas]

    def planned(self, targets: Sequence[Target]) -> Callable[[], list[Tensor]] | None:
        few = sum(math.prod(spec.shape) for spec in self.specs) <= MOST_WEIGHTS
        if not (self.keeps_checkpoint and few):
            return None
        own = [cast(SelectedTarget, target) for target in targets]
        if not all(target.selects_only and target.times is None for target in own):
            return None
        grids = [self._grid(target) for target in own]
        changes = [self._changes(target) for target in own]
        shares = [self._shares(target, None) for target in own]
        most = max(map(len, shares))
        shares = [[*some, *[0.0] * (most - len(some))] for some in shares]
        kept, rooms = [t.kept for t in own], [t.rooms for t in own]
        plan = make_plan([grid.whole for grid in grids], changes, shares, kept, rooms)
        return Planned(plan, changes, tuple(target.shape for target in own))

    def _grid(self, target: Target) -> Grid:
        return self._grid_of(target.spec.name)

    def _grid_of(self, name: str) -> Grid:
        return cast(Grid, self.grids[entry(name)])

    def _changes(self, target: SelectedTarget) -> list[Tensor]:
        """The changes of a tensor at each knot, and at each of depth where blocks are missing.

        Of a network that lacks blocks only those of depth are learnt, so that networks with all of
        them are what they would be without it.
        """
        grid = self._grid(target)
        if not target.short:
            return list(grid.changes)
        return [*(c.detach() for c in grid.changes), *grid.deep[: len(target.depth)]]

    def _shares(self, target: SelectedTarget, noise: Noise | None) -> list[float]:
        """φ_k for each of these."""
        return [*come_in(self.settings.knots, share_missing(target, noise)), *target.depth]

    def generate(self, target: Target, noise: Noise | None) -> Tensor:
        assert isinstance(target, SelectedTarget)
        weight, changes = self._grid(target).whole, self._changes(target)
        shares = self._shares(target, noise)
        if noise is None and target.selects_only:
            return target.shared(select(weight, changes, shares, target))
        for share, change, room in zip(shares, changes, target.rooms, strict=True):
            if share > 0:
                some = change if share == 1 else share * change
                weight = weight + place_channels(some, room, weight.shape)
        return self._at_size(weight, target, noise)

    @staticmethod
    def _at_size(weight: Tensor, target: SelectedTarget, noise: Noise | None) -> Tensor:
        """The channels that a target has of a tensor with all of them."""
        sizes = (target.c_out, *(() if target.spec.is_vector else (target.c_in,)))
        for dim, (size, kept) in enumerate(zip(sizes, target.kept, strict=False)):
            weight = along(weight, dim, size, kept, noise)
        return target.shared(weight)


INR = SelectedInr
