"""The INR of the paper: coordinates in, weights out."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from neumeta_cli.manifold.inr.base import Inr, entry
from neumeta_cli.manifold.inr.coordinates import Noise, Target, TensorSpec
from neumeta_cli.manifold.inr.network import (
    Coordinates,
    NetworkSettings,
    ResidualMLP,
    evaluate,
    rows_at_once,
    spread,
)


class MlpSettings(NetworkSettings):
    """Settings of the paper's INR."""

    summary: ClassVar[str] = "the paper's"

    kind: Literal["mlp"] = "mlp"
    per: Literal["type", "layer", "tensor"] = Field(
        "tensor",
        description="what gets a network of its own: weights and vectors (type), each layer, or "
        "each tensor",
    )
    scale: Literal["fan_in", "checkpoint"] = Field(
        "fan_in",
        description="outputs are divided by C_in; checkpoint also sets each tensor's spread",
    )


class MlpInr(Inr):
    """The paper's INR: a residual MLP for each part of the weights (section 3.2).

    ``W[o, i] = crop(MLP(embed(l/L, i/C_in, o/C_out), embed(L/N, C_in/N, C_out/N))) / C_in``: an
    output is K×K, K the largest kernel of the part; smaller kernels are cut out of its centre,
    linear weights and vectors are its mean. Vectors are not divided. A 3×3 kernel of a part whose
    largest is 5×5 is rows and columns 1 to 3 of what the MLP gives at its coordinates.
    """

    settings: MlpSettings
    settings_type = MlpSettings
    rounds_below_noise = True

    def begin(self, tensors: Mapping[str, Tensor]) -> None:
        by, turned = self.settings, self.turned(tensors)
        self.coordinates = Coordinates((by.frequencies, by.frequencies_of_sizes))
        self.register_buffer("spread", torch.stack([spread(turned[s.name]) for s in self.specs]))
        self.kernels: dict[str, tuple[int, int]] = {}
        for spec in self.specs:
            part = part_of(spec, by.per)
            old = self.kernels.get(part, (1, 1))
            self.kernels[part] = (max(old[0], spec.kernel[0]), max(old[1], spec.kernel[1]))
        self.parts = nn.ModuleDict(
            {
                part: ResidualMLP(self.coordinates.features, by.hidden, by.layers, height * width)
                for part, (height, width) in self.kernels.items()
            }
        )

    def forward(self, targets: Sequence[Target], noise: Noise | None) -> list[Tensor]:
        if not torch.is_grad_enabled():
            return super().forward(targets, noise)
        made: dict[str, Tensor] = {}
        by_part: dict[str, list[Target]] = {}
        for target in targets:
            by_part.setdefault(part_of(target.spec, self.settings.per), []).append(target)
        for part, group in by_part.items():
            points = torch.cat([self.space.coordinates(t, noise, self.device) for t in group])
            values = self.parts[part](self.coordinates.embed(points)).float()
            sizes = [t.c_out * t.c_in for t in group]
            for target, rows in zip(group, values.split(sizes), strict=True):
                made[target.spec.name] = self._shaped(target, rows, self.kernels[part])
        return [made[t.spec.name] for t in targets]

    def generate(self, target: Target, noise: Noise | None) -> Tensor:
        return self.total(target, noise, 1)

    def at_once(self, target: Target) -> int:
        return rows_at_once(self.device) // (target.c_out * target.c_in)

    def total(self, target: Target, noise: Noise | None, draws: int) -> Tensor:
        part = part_of(target.spec, self.settings.per)
        points = self.space.coordinates(target, noise, self.device, draws)
        rows = evaluate(cast(ResidualMLP, self.parts[part]), self.coordinates, points)
        summed = rows.view(draws, -1, rows.shape[1]).sum(0)
        return self._shaped(target, summed, self.kernels[part])

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
        if self.settings.scale == "checkpoint":
            full = 1 if spec.is_vector else spec.shape[1]
            scaled = scaled * self.get_buffer("spread")[spec.layer] * full
        return scaled


def part_of(spec: TensorSpec, per: str) -> str:
    """The part of the weights that shares a network with ``spec``: type, layer or tensor."""
    if per == "type":
        return "vector" if spec.is_vector else "weight"
    return entry(spec.module if per == "layer" else spec.name) or "root"


INR = MlpInr
