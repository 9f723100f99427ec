"""Implicit neural representations: from coordinates to weights.

Each kind is an ``nn.Module`` that takes targets and gives their tensors; any real-valued coordinate
and any size has a value. ``KINDS`` maps the recipe's ``inr.kind`` to it.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neumeta_cli.manifold.coordinates import Noise, Space, Target, TensorSpec
from neumeta_cli.manifold.field import Field, ShapesAt
from neumeta_cli.manifold.selected import IntegralField, SelectedField
from neumeta_cli.sections import InrSection

# Coordinates embedded at once and then evaluated at once, without gradients: what caches hold.
CPU_ROWS, GPU_ROWS = (1 << 14, 1 << 10), (1 << 16, 1 << 16)


def embed(values: Tensor, frequencies: int) -> Tensor:
    """Sinusoidal embedding: sin and cos of 2^k·π·v for k below ``frequencies``.

    Args:
        values: (n, d).
        frequencies: how many, per value.

    Returns:
        (n, 2 · d · frequencies).

    """
    made = values.new_empty(2 * values.shape[1] * frequencies, len(values))
    _embed_into(made, values[:, None], frequencies)
    return made.T


def _embed_into(made: Tensor, values: Tensor, frequencies: int) -> None:
    """Write the embeddings of groups of values, each sines and then cosines, doubling the angles.

    Args:
        made: (groups · 2 · d · frequencies, n), filled.
        values: (n, groups, d).
        frequencies: how many, per value.

    """
    if not frequencies:
        return
    n, groups, d = values.shape
    sin, cos = made.view(groups, 2, d, frequencies, n).unbind(1)
    angles = math.pi * values.permute(1, 2, 0)
    sin[:, :, 0], cos[:, :, 0] = angles.sin(), angles.cos()
    for k in range(1, frequencies):
        before = sin[:, :, k - 1]
        torch.mul(before, cos[:, :, k - 1], out=sin[:, :, k]).mul_(2)
        torch.mul(before, before, out=cos[:, :, k]).mul_(-2).add_(1)


class ResidualMLP(nn.Module):
    """``layers`` hidden ReLU layers with identity shortcuts after the first, then a linear head."""

    def __init__(self, inputs: int, hidden: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.hidden = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x), inplace=True)
        for layer in self.hidden:
            change = F.relu(layer(x), inplace=True)
            x = x + change if torch.is_grad_enabled() else change.add_(x)
        return self.head(x)


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

    def begin(
        self, specs: Sequence[TensorSpec], tensors: Mapping[str, Tensor], shapes: ShapesAt
    ) -> None:
        config = self.config
        inputs = 2 * (3 * config.frequencies + 3 * config.frequencies_of_sizes)
        self.register_buffer("spread", torch.stack([_spread(tensors[s.name]) for s in specs]))
        self.kernels: dict[str, tuple[int, int]] = {}
        for spec in specs:
            part = part_of(spec, config.per)
            old = self.kernels.get(part, (1, 1))
            self.kernels[part] = (max(old[0], spec.kernel[0]), max(old[1], spec.kernel[1]))
        self.parts = nn.ModuleDict(
            {
                part: ResidualMLP(inputs, config.hidden, config.layers, height * width)
                for part, (height, width) in self.kernels.items()
            }
        )

    def forward(self, targets: Sequence[Target], noise: Noise | None) -> list[Tensor]:
        made: dict[str, Tensor] = {}
        by_part: dict[str, list[Target]] = {}
        for target in targets:
            by_part.setdefault(part_of(target.spec, self.config.per), []).append(target)
        device = next(self.parameters()).device
        for part, group in by_part.items():
            points = torch.cat([self.space.coordinates(t, noise, device) for t in group])
            network = self.parts[part]
            assert isinstance(network, ResidualMLP)
            values = self._evaluate(network, points)
            sizes = [t.c_out * t.c_in for t in group]
            for target, rows in zip(group, values.split(sizes), strict=True):
                made[target.spec.name] = self._shaped(target, rows, self.kernels[part])
        return [made[t.spec.name] for t in targets]

    def _evaluate(self, network: ResidualMLP, points: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return network(self._embedded(points)).float()
        rows = points.new_empty(len(points), network.head.out_features)
        device = points.device.type
        many, few = CPU_ROWS if device == "cpu" else GPU_ROWS
        few *= 1 + torch.is_autocast_enabled(device)  # half the bytes, twice the rows
        for start in range(0, len(points), many):
            embedded = self._embedded(points[start : start + many])
            for place in range(0, len(embedded), few):
                first = start + place
                rows[first : first + few] = network(embedded[place : place + few])
        return rows

    def _embedded(self, points: Tensor) -> Tensor:
        places, sizes = self.config.frequencies, self.config.frequencies_of_sizes
        made = points.new_empty(6 * (places + sizes), len(points))
        if places == sizes:
            _embed_into(made, points.view(-1, 2, 3), places)
        else:
            _embed_into(made[: 6 * places], points[:, None, :3], places)
            _embed_into(made[6 * places :], points[:, None, 3:], sizes)
        device = points.device.type
        if torch.is_autocast_enabled(device):  # cheaper here than after the transposition
            made = made.to(torch.get_autocast_dtype(device))
        return made.T

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
        pair = self.factors[target.spec.name.replace(".", "/")]
        assert isinstance(pair, nn.ModuleDict)
        left = pair["out"](target.c_out, target, noise)
        if target.spec.is_vector:
            return left[:, 0]
        right = pair["in"](target.c_in, target, noise).view(target.c_in, left.shape[1], -1)
        product = torch.einsum("or,irk->oik", left, right)
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

    def forward(self, channels: int, target: Target, noise: Noise | None) -> Tensor:
        """Vectors at ``channels`` evenly spread places: (channels, columns of the grid)."""
        at = torch.arange(channels, dtype=torch.float32, device=self.grid.device)
        sizes = torch.tensor(
            [[target.size_in, target.c_out]], dtype=torch.float32, device=self.grid.device
        )
        if noise is not None:
            at = at + noise.channels * noise.draw(channels, like=at)
            sizes = sizes + noise.sizes * noise.draw(1, 2, like=at)
        embedded = embed((at / channels)[:, None], self.config.frequencies)
        if self.config.frequencies_of_sizes:
            context = embed(sizes / self.space.largest, self.config.frequencies_of_sizes)
            embedded = torch.cat([embedded, context.expand(channels, -1)], dim=1)
        correction = self.correction(embedded).float() * self.get_buffer("spread")
        return self._interpolate(at * (len(self.grid) / channels)) + correction

    def _interpolate(self, position: Tensor) -> Tensor:
        last = len(self.grid) - 1
        position = position.clamp(0, last)
        below = position.floor().long().clamp(max=max(last - 1, 0))
        share = (position - below)[:, None]
        return self.grid[below] * (1 - share) + self.grid[(below + 1).clamp(max=last)] * share


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
