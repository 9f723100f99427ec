"""The INR that is a product: functions of the output channel times those of the input channel."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from neumeta_cli.manifold.inr.base import Inr, entry
from neumeta_cli.manifold.inr.coordinates import Noise, Space, Target
from neumeta_cli.manifold.inr.network import NetworkSettings, ResidualMLP, embed, spread

LEVELS = 63  # of a compact file: 7 bits
VALUES = 1 << 21  # of factors made at once, over several draws


class FactorisedSettings(NetworkSettings):
    """Settings of an INR of factors."""

    summary: ClassVar[str] = "functions of c_in times those of c_out"

    kind: Literal["factorised"] = "factorised"


class FactorisedInr(Inr):
    """Functions of the output channel times functions of the input channel, summed.

    ``W[o, i] = C_in,full / C_in · Σ_r A_r(c_out, C_in, C_out) · B_r(c_in, C_in, C_out)``: both
    factors are a learned grid, interpolated along the channel coordinate and begun with the
    checkpoint's singular vectors, plus a ResidualMLP that knows the size and begins at zero. Before
    any training it gives the checkpoint itself at full width. It evaluates 2·n rows instead of
    n·n coordinates.
    """

    settings: FactorisedSettings
    settings_type = FactorisedSettings

    def begin(self, tensors: Mapping[str, Tensor]) -> None:
        self.factors = nn.ModuleDict()
        for name, weight in self.turned(tensors).items():
            pair = nn.ModuleDict()
            if weight.dim() == 1:
                pair["out"] = Axis(weight[:, None], self.space, self.settings)
            else:
                left, right = _split(weight)
                pair["out"] = Axis(left, self.space, self.settings)
                pair["in"] = Axis(right, self.space, self.settings)
            self.factors[entry(name)] = pair

    def part(self, name: str) -> str:
        return "grids" if name.endswith(".grid") else "corrections"

    def levels(self, name: str, tensor: Tensor) -> int:
        return LEVELS

    def generate(self, target: Target, noise: Noise | None) -> Tensor:
        return self.total(target, noise, 1)

    def at_once(self, target: Target) -> int:
        pair = cast(nn.ModuleDict, self.factors[entry(target.spec.name)])
        columns = [cast(Axis, axis).grid.shape[1] for axis in pair.values()]
        sizes = (target.c_out, target.c_in)
        return VALUES // sum(n * c for n, c in zip(sizes, columns, strict=False))

    def total(self, target: Target, noise: Noise | None, draws: int) -> Tensor:
        pair = cast(nn.ModuleDict, self.factors[entry(target.spec.name)])
        channels = (target.c_out,) if target.spec.is_vector else (target.c_out, target.c_in)
        jitter = [None] * len(channels) if noise is None else _jitter(noise, draws, channels)
        left: Tensor = pair["out"](target.c_out, target, jitter[0])
        if target.spec.is_vector:
            return left[..., 0].sum(0)
        right = pair["in"](target.c_in, target, jitter[1])
        right = right.view(len(right), target.c_in, left.shape[2], -1)
        product = torch.einsum("dor,dirk->oik", left, right)
        return product.reshape(target.shape) * (target.spec.shape[1] / target.c_in)


class Axis(nn.Module):
    """Vectors along one channel axis: an interpolated grid and a correction that knows the size."""

    def __init__(self, grid: Tensor, space: Space, settings: NetworkSettings) -> None:
        super().__init__()
        self.grid = nn.Parameter(grid.clone())
        self.space, self.settings = space, settings
        self.register_buffer("spread", spread(grid))
        inputs = 2 * settings.frequencies + 4 * settings.frequencies_of_sizes
        self.correction = ResidualMLP(inputs, settings.hidden, settings.layers, grid.shape[1])
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
        embedded = embed((at / channels).view(-1, 1), self.settings.frequencies)
        if self.settings.frequencies_of_sizes:
            context = embed(sizes / self.space.largest, self.settings.frequencies_of_sizes)
            context = context.repeat_interleave(channels, dim=0)
            embedded = torch.cat([embedded, context], dim=1)
        correction: Tensor = self.correction(embedded).float() * self.get_buffer("spread")
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
    parts: tuple[Tensor, ...] = drawn.split([count + 2 for count in channels], dim=1)
    return parts


def _split(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Factor (O, I, ...) into (O, R) and (I, R · kernel) by singular values, exactly."""
    rows, columns = weight.shape[:2]
    left, values, right = torch.linalg.svd(weight.reshape(rows, -1).double(), full_matrices=False)
    root = values.sqrt()
    right = (root[:, None] * right).view(len(root), columns, -1)
    return (left * root).float(), right.permute(1, 0, 2).flatten(1).float()


INR = FactorisedInr
