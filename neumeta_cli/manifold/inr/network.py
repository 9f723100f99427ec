"""The residual MLP of an INR, the embedding of its coordinates, its evaluation at many points."""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from neumeta_cli.manifold.inr.base import InrSettings

CPU_ROWS, GPU_ROWS = 1 << 12, 1 << 16  # points evaluated at once without gradients


class NetworkSettings(InrSettings):
    """Settings of the MLPs of an INR and of the embedding of their coordinates."""

    hidden: int = Field(256, ge=1, description="width of the MLP")
    layers: int = Field(5, ge=1, description="hidden layers of the MLP")
    frequencies: int = Field(
        16, ge=1, description="number of frequencies that embed channel and layer as sinusoids"
    )
    size_frequencies: int | None = Field(
        None, ge=0, description="the same for sizes; if not given, as many as frequencies"
    )

    @property
    def frequencies_of_sizes(self) -> int:
        """``size_frequencies``, or as many as ``frequencies`` where it is not given."""
        return self.frequencies if self.size_frequencies is None else self.size_frequencies

    @property
    def pieces(self) -> int:
        return self.layers


def embed(values: Tensor, frequencies: int) -> Tensor:
    """Sinusoidal embedding: sin and cos of 2^k·π·v for k below ``frequencies``.

    Args:
        values: (n, d).
        frequencies: how many, per value.

    Returns:
        (n, 2 · d · frequencies).

    """
    made = values.new_empty(2 * values.shape[1] * frequencies, len(values))
    embed_into(made, values[:, None], frequencies)
    return made.T


def embed_into(made: Tensor, values: Tensor, frequencies: int) -> None:
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
        values: Tensor = self.head(x)
        return values


class Coordinates:
    """How groups of three coordinates are embedded, one after the other.

    Args:
        frequencies: of each group.

    """

    def __init__(self, frequencies: Sequence[int]) -> None:
        self.frequencies = tuple(frequencies)
        self.features = sum(6 * count for count in self.frequencies)

    def embed(self, points: Tensor) -> Tensor:
        """(n, 3 · groups) to (n, features), in the precision of the autocast in force."""
        made = points.new_empty(self.features, len(points))
        groups = points.view(len(points), -1, 3)
        if len(set(self.frequencies)) == 1:
            embed_into(made, groups, self.frequencies[0])
        else:
            parts = made.split([6 * count for count in self.frequencies])
            for number, (part, count) in enumerate(zip(parts, self.frequencies, strict=True)):
                embed_into(part, groups[:, number : number + 1], count)
        return made.to(_precision(points)).T  # cheaper here than after the transposition

    def columns(self, group: int) -> Tensor:
        """Where the sines and cosines of a group stand among the features: (2, 3, frequencies)."""
        count, before = self.frequencies[group], 6 * sum(self.frequencies[:group])
        return before + torch.arange(6 * count).view(2, 3, count)


@torch.no_grad()
def evaluate(network: ResidualMLP, coordinates: Coordinates, points: Tensor) -> Tensor:
    """The network at many points, piece by piece, in the precision of the autocast in force.

    What is the same at all points is embedded once and goes into the bias of the first layer.

    Args:
        network: on the embedding of the points.
        coordinates: that embedding.
        points: (n, 3 · groups).

    Returns:
        (n, outputs), float32.

    """
    precision = _precision(points)
    weight, fixed = network.first.weight, coordinates.embed(points[:1]).float()
    columns, varying = _varying(coordinates, points)
    columns = columns.to(points.device)
    fixed[:, columns] = 0
    bias = network.first.bias + (weight * fixed).sum(1)
    first = (weight[:, columns].to(precision), bias.to(precision))
    *hidden, head = [
        (layer.weight.to(precision), layer.bias.to(precision))
        for layer in (*network.hidden, network.head)
    ]
    rows = points.new_empty(len(points), network.head.out_features)
    for start in range(0, len(points), piece := rows_at_once(points.device)):
        some = points[start : start + piece]
        made = some.new_empty(len(columns), len(some))
        place = 0
        for chosen, count in varying:
            part = made[place : (place := place + 2 * len(chosen) * count)]
            embed_into(part, some[:, None, chosen], count)
        x = F.linear(made.to(precision).T, *first).relu_()
        for layer in hidden:
            x = _linear_relu(x, *layer).add_(x)
        rows[start : start + piece] = F.linear(x, *head)
    return rows


def rows_at_once(device: torch.device) -> int:
    """How many points are evaluated at once: what caches hold."""
    return CPU_ROWS if device.type == "cpu" else GPU_ROWS


def _linear_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer and its ReLU: one pass over the output where oneDNN is there, else three.

    The input must be contiguous.
    """
    if x.device.type == "cpu" and _fuses(x.dtype):
        return _fused_linear_relu(x, weight, bias)
    return F.linear(x, weight, bias).relu_()


def _fused_linear_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What torch.compile makes of a linear layer and its ReLU on CPUs."""
    fused: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu", [], "")
    return fused


@functools.cache
def _fuses(dtype: torch.dtype) -> bool:
    """Whether this build and processor have it: without AVX-512, oneDNN has none in bfloat16."""
    one = torch.ones(1, 1, dtype=dtype)
    try:
        _fused_linear_relu(one, one, one[0])
    except (AttributeError, RuntimeError):
        return False
    return True


def _varying(
    coordinates: Coordinates, points: Tensor
) -> tuple[Tensor, list[tuple[list[int], int]]]:
    """The features of the coordinates that are not the same at all points.

    Returns:
        Their columns, in the order of what follows: coordinates with as many frequencies.

    """
    varies = (points != points[:1]).any(0).view(-1, 3)
    by_count: dict[int, list[tuple[int, Tensor]]] = {}
    for group, count in enumerate(coordinates.frequencies):
        columns = coordinates.columns(group)
        for place in varies[group].nonzero()[:, 0].tolist() if count else ():
            by_count.setdefault(count, []).append((3 * group + place, columns[:, place]))
    found = [torch.stack([c for _, c in of], dim=1).flatten() for of in by_count.values()]
    chosen = [([place for place, _ in of], count) for count, of in by_count.items()]
    return torch.cat([torch.empty(0, dtype=torch.long), *found]), chosen


def _precision(points: Tensor) -> torch.dtype:
    device = points.device.type
    lowered = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if lowered else points.dtype


def spread(values: Tensor) -> Tensor:
    """Standard deviation as a scalar tensor, never 0."""
    return values.float().std(correction=0).clamp(min=1e-8)
