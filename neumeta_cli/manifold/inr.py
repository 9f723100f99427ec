"""Implicit neural representations: from coordinates to weights.

Each kind is an ``nn.Module`` that takes targets and gives their tensors; any real-valued coordinate
and any size has a value. ``KINDS`` maps the recipe's ``inr.kind`` to it.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from neumeta_cli.manifold.coordinates import Noise, Space, Target, TensorSpec
from neumeta_cli.manifold.field import Field, ShapesAt
from neumeta_cli.manifold.mlp import Coordinates, ResidualMLP, embed, evaluate, rows_at_once
from neumeta_cli.manifold.selected import IntegralField, SelectedField
from neumeta_cli.sections import InrSection

VALUES = 1 << 21  # of factors made at once, over several draws


def part_of(spec: TensorSpec, per: str) -> str:
    """The part of the weights that shares a network with ``spec``: type, layer or tensor."""
    if per == "type":
        return "vector" if spec.is_vector else "weight"
    name = spec.module if per == "layer" else spec.name
    return name.replace(".", "/") or "root"


class MlpField(Field):
    """The paper's INR: a residual MLP for each part of the weights.

    An output is K×K, K the largest kernel of the part; smaller kernels are cut out of its centre,
    linear weights and vectors are its mean. Weights are divided by C_in.
    """

    rounds_below_noise = True

    def begin(
        self, specs: Sequence[TensorSpec], tensors: Mapping[str, Tensor], shapes: ShapesAt
    ) -> None:
        config = self.config
        self.coordinates = Coordinates((config.frequencies, config.frequencies_of_sizes))
        self.register_buffer("spread", torch.stack([_spread(tensors[s.name]) for s in specs]))
        self.kernels: dict[str, tuple[int, int]] = {}
        for spec in specs:
            part = part_of(spec, config.per)
            old = self.kernels.get(part, (1, 1))
            self.kernels[part] = (max(old[0], spec.kernel[0]), max(old[1], spec.kernel[1]))
        self.parts = nn.ModuleDict(
            {
                part: ResidualMLP(
                    self.coordinates.features, config.hidden, config.layers, height * width
                )
                for part, (height, width) in self.kernels.items()
            }
        )

    def forward(self, targets: Sequence[Target], noise: Noise | None) -> list[Tensor]:
        if not torch.is_grad_enabled():
            return super().forward(targets, noise)
        made: dict[str, Tensor] = {}
        by_part: dict[str, list[Target]] = {}
        for target in targets:
            by_part.setdefault(part_of(target.spec, self.config.per), []).append(target)
        for part, group in by_part.items():
            points = torch.cat([self.space.coordinates(t, noise, self._device) for t in group])
            values = self.parts[part](self.coordinates.embed(points)).float()
            sizes = [t.c_out * t.c_in for t in group]
            for target, rows in zip(group, values.split(sizes), strict=True):
                made[target.spec.name] = self._shaped(target, rows, self.kernels[part])
        return [made[t.spec.name] for t in targets]

    def generate(self, target: Target, noise: Noise | None) -> Tensor:
        return self.total(target, noise, 1)

    def at_once(self, target: Target) -> int:
        return rows_at_once(self._device) // (target.c_out * target.c_in)

    def total(self, target: Target, noise: Noise | None, draws: int) -> Tensor:
        part = part_of(target.spec, self.config.per)
        points = self.space.coordinates(target, noise, self._device, draws)
        rows = evaluate(cast(ResidualMLP, self.parts[part]), self.coordinates, points)
        summed = rows.view(draws, -1, rows.shape[1]).sum(0)
        return self._shaped(target, summed, self.kernels[part])

    @property
    def _device(self) -> torch.device:
        return self.get_buffer("spread").device

    def _shaped(self, target: Target, rows: Tensor, kernel: tuple[int, int]) -> Tensor:
        spec = target.spec
        grid = rows.view(target.c_out, target.c_in, *kernel)
        if len(spec.shape) > 2:
            top, left = ((k - own) // 2 for k, own in zip(kernel, spec.kernel, strict=True))
            grid = grid[:, :, top : top + spec.kernel[0], left : left + spec.kernel[1]]
        else:
            grid = grid.mean((2, 3))
        scaled = grid.reshape(target.shape)
        if not spec.is_vector:
            scaled = scaled / target.c_in
        if self.config.scale == "checkpoint":
            full = 1 if spec.is_vector else spec.shape[1]
            scaled = scaled * self.get_buffer("spread")[spec.layer] * full
        return scaled


class FactorisedField(Field):
    """Functions of the output channel times functions of the input channel, summed.

    ``W[o, i] = C_in,full / C_in · Σ_r A_r(c_out, C_in, C_out) · B_r(c_in, C_in, C_out)``: both
    factors are a learned grid, interpolated along the channel coordinate and begun with the
    checkpoint's singular vectors, plus a ResidualMLP that knows the size and begins at zero. Before
    any training it gives the checkpoint itself at full width. It evaluates 2·n rows instead of
    n·n coordinates.
    """

    def begin(
        self, specs: Sequence[TensorSpec], tensors: Mapping[str, Tensor], shapes: ShapesAt
    ) -> None:
        self.factors = nn.ModuleDict()
        for spec in specs:
            weight = tensors[spec.name].float()
            pair = nn.ModuleDict()
            if spec.is_vector:
                pair["out"] = Axis(weight[:, None], self.space, self.config)
            else:
                left, right = _split(weight)
                pair["out"] = Axis(left, self.space, self.config)
                pair["in"] = Axis(right, self.space, self.config)
            self.factors[spec.name.replace(".", "/")] = pair

    def generate(self, target: Target, noise: Noise | None) -> Tensor:
        return self.total(target, noise, 1)

    def at_once(self, target: Target) -> int:
        pair = cast(nn.ModuleDict, self.factors[target.spec.name.replace(".", "/")])
        columns = [cast(Axis, axis).grid.shape[1] for axis in pair.values()]
        sizes = (target.c_out, target.c_in)
        return VALUES // sum(n * c for n, c in zip(sizes, columns, strict=False))

    def total(self, target: Target, noise: Noise | None, draws: int) -> Tensor:
        pair = cast(nn.ModuleDict, self.factors[target.spec.name.replace(".", "/")])
        channels = (target.c_out,) if target.spec.is_vector else (target.c_out, target.c_in)
        jitter = [None] * len(channels) if noise is None else _jitter(noise, draws, channels)
        left = pair["out"](target.c_out, target, jitter[0])
        if target.spec.is_vector:
            return left[..., 0].sum(0)
        right = pair["in"](target.c_in, target, jitter[1])
        right = right.view(len(right), target.c_in, left.shape[2], -1)
        product = torch.einsum("dor,dirk->oik", left, right)
        return product.reshape(target.shape) * (target.spec.shape[1] / target.c_in)


class Axis(nn.Module):
    """Vectors along one channel axis: an interpolated grid and a correction that knows the size."""

    def __init__(self, grid: Tensor, space: Space, config: InrSection) -> None:
        super().__init__()
        self.grid = nn.Parameter(grid.clone())
        self.space, self.config = space, config
        self.register_buffer("spread", _spread(grid))
        inputs = 2 * config.frequencies + 4 * config.frequencies_of_sizes
        self.correction = ResidualMLP(inputs, config.hidden, config.layers, grid.shape[1])
        nn.init.zeros_(self.correction.head.weight)
        nn.init.zeros_(self.correction.head.bias)

    def forward(self, channels: int, target: Target, jitter: Tensor | None) -> Tensor:
        """Vectors at ``channels`` evenly spread places: (draws, channels, columns of the grid).

        Args:
            channels: how many.
            target: whose sizes the correction is told.
            jitter: (draws, channels + 2) what is added to the places and to the two sizes; one
                draw as they are if None.

        """
        at = torch.arange(channels, dtype=torch.float32, device=self.grid.device)[None]
        sizes = torch.tensor([[target.size_in, target.c_out]], dtype=at.dtype, device=at.device)
        if jitter is not None:
            by_place, by_size = jitter.to(at.device).split([channels, 2], dim=1)
            at, sizes = at + by_place, sizes + by_size
        embedded = embed((at / channels).view(-1, 1), self.config.frequencies)
        if self.config.frequencies_of_sizes:
            context = embed(sizes / self.space.largest, self.config.frequencies_of_sizes)
            context = context.repeat_interleave(channels, dim=0)
            embedded = torch.cat([embedded, context], dim=1)
        correction = self.correction(embedded).float() * self.get_buffer("spread")
        values = self._interpolate(at.flatten() * (len(self.grid) / channels)) + correction
        return values.view(*at.shape, -1)

    def _interpolate(self, position: Tensor) -> Tensor:
        last = len(self.grid) - 1
        position = position.clamp(0, last)
        below = position.floor().long().clamp(max=max(last - 1, 0))
        share = (position - below)[:, None]
        return self.grid[below] * (1 - share) + self.grid[(below + 1).clamp(max=last)] * share


def _jitter(noise: Noise, draws: int, channels: Sequence[int]) -> Sequence[Tensor]:
    """What each axis's places and its two sizes are moved by: (draws, channels + 2) each."""
    moves = [n for count in channels for n in (count, 2)]
    reach = torch.tensor([noise.channels, noise.sizes] * len(channels))
    drawn = noise.draw(draws, sum(moves), like=reach)
    drawn = drawn * reach.repeat_interleave(torch.tensor(moves))
    return drawn.split([count + 2 for count in channels], dim=1)


def _spread(values: Tensor) -> Tensor:
    """Standard deviation as a scalar tensor, never 0."""
    return values.float().std(correction=0).clamp(min=1e-8)


def _split(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Factor (O, I, ...) into (O, R) and (I, R · kernel) by singular values, exactly."""
    rows, columns = weight.shape[:2]
    left, values, right = torch.linalg.svd(weight.reshape(rows, -1).double(), full_matrices=False)
    root = values.sqrt()
    right = (root[:, None] * right).view(len(root), columns, -1)
    return (left * root).float(), right.permute(1, 0, 2).flatten(1).float()


KINDS: dict[str, type[Field]] = {
    "mlp": MlpField,
    "factorised": FactorisedField,
    "selected": SelectedField,
    "integral": IntegralField,
}
