"""The INR that begins with the checkpoint's largest channels."""

import math
from collections.abc import Mapping, Sequence
from typing import Self, cast

import torch
from torch import Tensor, nn

from neumeta_cli.cache import remembered
from neumeta_cli.manifold.coordinates import Noise, Target, TensorSpec
from neumeta_cli.manifold.field import Field, ShapesAt
from neumeta_cli.manifold.plan import MOST_WEIGHTS, Plan, make_plan, selects_only
from neumeta_cli.resize import place_channels


class SelectedField(Field):
    """A choice among the checkpoint's channels, and what their number changes in them.

    ``W[o, i] = W_0[p(c_out), q(c_in)] + Σ_k φ_k(m) · G_k[p(c_out), q(c_in)]``, with m the share of
    channels that is missing and φ_k a line from 0 at the knot before κ_k to 1 at κ_k, then flat:
    each knot adds a change to those before it. W_0 is the checkpoint, whose function at full width
    therefore stays as it is. G_k begins at zero and has the channels that are left at the knot
    before its own. At a size p and q give the places of the channels of largest norm, in the
    checkpoint's (smooth) order; between two of them, as under noise, weights are interpolated, and
    above the checkpoint's size p and q are lines. Before any training it prunes by ℓ1 norm.

    Without knots W_0 itself is learnt: the slices of a slimmable network (Yu et al., 2019).
    """

    selects = True

    def begin(
        self, specs: Sequence[TensorSpec], tensors: Mapping[str, Tensor], shapes: ShapesAt
    ) -> None:
        knots = self.config.knots
        self.keeps_checkpoint = bool(knots)
        rooms = [shapes(gamma) for gamma in (0.0, *knots[:-1])] if knots else []
        self.grids = nn.ModuleDict()
        for spec in specs:
            weight = tensors[spec.name].float()
            grid = _Grid(weight, [weight.new_zeros(room[spec.name]) for room in rooms])
            self.grids[spec.name.replace(".", "/")] = grid
        self.small = sum(math.prod(spec.shape) for spec in specs) <= MOST_WEIGHTS
        self._plans: dict[int, tuple[Sequence[Target], Plan | None]] = {}
        self.register_load_state_dict_post_hook(_forget_plans)

    def train(self, mode: bool = True) -> Self:
        """Begin or end a fit; other weights may have come since the last one."""
        self._plans = {}
        return super().train(mode)

    def rated(self, rates: Sequence[float]) -> list[tuple[list[nn.Parameter], float]]:
        if not (rates and self.config.knots):
            return super().rated(rates)
        grids = [cast(_Grid, grid) for grid in self.grids.values()]
        changes = zip(*(grid.changes for grid in grids), strict=True)
        return [(list(at), rate) for at, rate in zip(changes, rates, strict=True)]

    def forward(self, targets: Sequence[Target], noise: Noise | None) -> list[Tensor]:
        still = noise is None or not (noise.channels or noise.sizes)
        again = self.training and len(targets) == len(self.grids)  # a list that comes in each step
        if not (again and still and self.keeps_checkpoint and self.small):
            return super().forward(targets, noise)
        plan = self._plan_of(targets)
        if plan is None:
            return super().forward(targets, noise)
        return plan.make({t.spec.name: list(self._grid(t).changes) for t in targets})

    def _plan_of(self, targets: Sequence[Target]) -> Plan | None:
        """The plan made for this very list; a copied field knows those of other lists."""
        if id(targets) in self._plans and self._plans[id(targets)][0] is not targets:
            del self._plans[id(targets)]
        return remembered(self._plans, id(targets), lambda: (targets, self._plan(targets)))[1]

    def _plan(self, targets: Sequence[Target]) -> Plan | None:
        if not all(selects_only(target) for target in targets):
            return None
        grids = {t.spec.name: self._grid(t) for t in targets}
        return make_plan(
            targets,
            {name: grid.whole for name, grid in grids.items()},
            {name: list(grid.changes) for name, grid in grids.items()},
            {t.spec.name: self._shares(_missing(t, None)) for t in targets},
        )

    def _grid(self, target: Target) -> "_Grid":
        return cast(_Grid, self.grids[target.spec.name.replace(".", "/")])

    def _shares(self, missing: float) -> list[float]:
        """φ_k at a share of channels that is missing, for each knot."""
        before = (0.0, *self.config.knots)
        return [
            min(1.0, max(0.0, (missing - low) / (knot - low)))
            for low, knot in zip(before, self.config.knots, strict=False)
        ]

    def generate(self, target: Target, noise: Noise | None) -> Tensor:
        grid = self._grid(target)
        weight, shares = grid.whole, self._shares(_missing(target, noise))
        for share, change, room in zip(shares, grid.changes, target.rooms, strict=True):
            if share > 0:
                some = change if share == 1 else share * change
                weight = weight + place_channels(some, room, weight.shape)
        sizes = (target.c_out, *(() if target.spec.is_vector else (target.c_in,)))
        for dim, (size, kept) in enumerate(zip(sizes, target.kept, strict=False)):
            weight = _along(weight, dim, size, kept, noise)
        if len(sizes) == 2 and sizes[1] > target.spec.shape[1]:
            weight = weight * (target.spec.shape[1] / sizes[1])
        return weight


class IntegralField(SelectedField):
    """The checkpoint's weights as a function that is continuous along its channels.

    An integral network (Solodskikh et al., CVPR 2023): at a size, the learnt grid is read at evenly
    spread places among all its channels, on lines between them, and the sum over input channels
    keeps its scale, ``W[o, i] = C_in,full / C_in · W_0(c_out, c_in)``. Begins as the checkpoint.
    """

    selects = False

    def begin(
        self, specs: Sequence[TensorSpec], tensors: Mapping[str, Tensor], shapes: ShapesAt
    ) -> None:
        self.grids = nn.ModuleDict(
            {s.name.replace(".", "/"): _Grid(tensors[s.name].float(), []) for s in specs}
        )

    def generate(self, target: Target, noise: Noise | None) -> Tensor:
        weight = cast(_Grid, self.grids[target.spec.name.replace(".", "/")]).whole
        weight = _along(weight, 0, target.c_out, None, noise)
        if target.spec.is_vector:
            return weight
        return _along(weight, 1, target.c_in, None, noise) * (target.spec.shape[1] / target.c_in)


def _forget_plans(field: SelectedField, _: object) -> None:
    """The checkpoint's own weights are part of them."""
    field._plans = {}


class _Grid(nn.Module):
    """The checkpoint's tensor, learnt itself where there are no changes, and the changes."""

    whole: Tensor

    def __init__(self, weight: Tensor, changes: Sequence[Tensor]) -> None:
        super().__init__()
        if changes:
            self.register_buffer("whole", weight.clone())
        else:
            self.whole = nn.Parameter(weight.clone())
        self.changes = nn.ParameterList(changes)


def _missing(target: Target, noise: Noise | None) -> float:
    """The share of channels that is missing along the dimensions that shrink, on average."""
    sizes = [float(target.c_out), float(target.c_in)]
    if noise is not None and noise.sizes:
        drawn = noise.draw(2, like=torch.empty(0)).tolist()
        sizes = [size + noise.sizes * by for size, by in zip(sizes, drawn, strict=True)]
    shares = [
        1 - size / full
        for size, full, kept in zip(sizes, target.spec.shape, target.kept, strict=False)
        if kept is not None
    ]
    return sum(shares) / max(1, len(shares))


def _along(weight: Tensor, dim: int, size: int, kept: Tensor | None, noise: Noise | None) -> Tensor:
    """Values along a dimension at ``size`` evenly spread places among those that are kept."""
    if kept is None and size == weight.shape[dim] and noise is None:
        return weight
    count = weight.shape[dim] if kept is None else len(kept)
    perturbed = noise is not None and noise.channels
    if count == size and not perturbed:
        return weight if kept is None else weight.index_select(dim, kept)
    at = torch.arange(size, dtype=weight.dtype, device=weight.device)
    if noise is not None and perturbed:
        at = at + noise.channels * noise.draw(size, like=weight)
    at = (at * (count / size)).clamp(0, count - 1)
    below = at.floor().long()
    above = (below + 1).clamp(max=count - 1)
    share = (at - below).view(-1, *(1,) * (weight.dim() - 1 - dim))
    if kept is not None:
        below, above = kept[below], kept[above]
    return torch.lerp(weight.index_select(dim, below), weight.index_select(dim, above), share)
