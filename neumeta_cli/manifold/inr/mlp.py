"""The INR of the paper: coordinates in, weights out."""

import math
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
from neumeta_cli.reporting import Reporter

START_RATE = 2e-3  # Adam's, while the checkpoint's weights are learnt by heart
START_PLACES, START_PART = 256, 16  # of each tensor in a step of that: so many, or one in so many


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
    start_steps: int = Field(
        2000,
        ge=0,
        description="steps before the fit in which it learns the checkpoint's weights by heart; 0: "
        "it begins with random weights",
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

    def learn(self, tensors: Mapping[str, Tensor], noise: Noise, reporter: Reporter) -> None:
        """Learn the weights at full width by heart, each tensor's error over its own square."""
        steps, targets = self.settings.start_steps, self.targets(self.frame.full)
        if not steps:
            return
        wanted = [self._wanted(target, tensors) for target in targets]
        optimizer = torch.optim.Adam(self.parameters(), lr=START_RATE)
        reporter.start("learn the checkpoint's weights", steps)
        for step in range(steps):
            rate = START_RATE * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.param_groups[0]["lr"] = rate
            places = [self._some(len(values), noise.generator) for values in wanted]
            made = self._rows(targets, noise, places)
            errors = [
                (self._cropped(target.spec, rows) - values[at]).square().mean()
                / values.square().mean().clamp(min=torch.finfo(torch.float32).tiny)
                for target, rows, values, at in zip(targets, made, wanted, places, strict=True)
            ]
            optimizer.zero_grad()
            error = torch.stack(errors).mean()
            error.backward()
            optimizer.step()
            reporter.advance(note=f"{float(error.detach()):.1%} of their squares apart")
        reporter.finish()

    def _some(self, count: int, generator: torch.Generator) -> Tensor:
        """Random places of a tensor; all of a small one."""
        some = max(START_PLACES, count // START_PART)
        if count <= some:
            return torch.arange(count, device=self.device)
        device = generator.device
        return torch.randint(count, (some,), generator=generator, device=device).to(self.device)

    def _wanted(self, target: Target, tensors: Mapping[str, Tensor]) -> Tensor:
        """What the MLP is to give for the checkpoint's tensor: a row for each pair of channels."""
        spec = target.spec
        whole = spec.layout.turn(tensors[spec.name]).float().to(self.device)
        whole = whole / self._scaled(target, torch.ones((), device=self.device))
        kernel = spec.kernel if len(spec.shape) > 2 else ()
        return whole.reshape(target.c_out * target.c_in, *kernel)

    def forward(self, targets: Sequence[Target], noise: Noise | None) -> list[Tensor]:
        if not torch.is_grad_enabled():
            return super().forward(targets, noise)
        made = self._rows(targets, noise, [None] * len(targets))
        return [self._shaped(target, rows) for target, rows in zip(targets, made, strict=True)]

    def _rows(
        self,
        targets: Sequence[Target],
        noise: Noise | None,
        places: Sequence[Tensor | None],
    ) -> list[Tensor]:
        """What the MLPs give for each tensor, or at some of its places: those of a part at once."""
        by_part: dict[str, list[int]] = {}
        for number, target in enumerate(targets):
            by_part.setdefault(part_of(target.spec, self.settings.per), []).append(number)
        made: dict[int, Tensor] = {}
        for part, group in by_part.items():
            points = [
                self.space.coordinates(targets[n], noise, self.device, places=places[n])
                for n in group
            ]
            values = self.parts[part](self.coordinates.embed(torch.cat(points))).float()
            made |= zip(group, values.split([len(own) for own in points]), strict=True)
        return [made[number] for number in range(len(targets))]

    def generate(self, target: Target, noise: Noise | None) -> Tensor:
        return self.total(target, noise, 1)

    def at_once(self, target: Target) -> int:
        return rows_at_once(self.device) // (target.c_out * target.c_in)

    def total(self, target: Target, noise: Noise | None, draws: int) -> Tensor:
        part = part_of(target.spec, self.settings.per)
        points = self.space.coordinates(target, noise, self.device, draws)
        rows = evaluate(cast(ResidualMLP, self.parts[part]), self.coordinates, points)
        return self._shaped(target, rows.view(draws, -1, rows.shape[1]).sum(0))

    def _shaped(self, target: Target, rows: Tensor) -> Tensor:
        return self._scaled(target, self._cropped(target.spec, rows).reshape(target.shape))

    def _cropped(self, spec: TensorSpec, rows: Tensor) -> Tensor:
        """The centre of each kernel that a part gives, or the mean of its elements: (n, …)."""
        kernel = self.kernels[part_of(spec, self.settings.per)]
        grid = rows.view(len(rows), *kernel)
        if len(spec.shape) == 2 or spec.is_vector:
            return grid.mean((1, 2))
        top, left = ((k - own) // 2 for k, own in zip(kernel, spec.kernel, strict=True))
        return grid[:, top : top + spec.kernel[0], left : left + spec.kernel[1]]

    def _scaled(self, target: Target, values: Tensor) -> Tensor:
        spec = target.spec
        if not spec.is_vector:
            values = values / target.c_in
        if self.settings.scale == "checkpoint":
            full = 1 if spec.is_vector else spec.shape[1]
            values = values * self.get_buffer("spread")[spec.layer] * full
        return values


def part_of(spec: TensorSpec, per: str) -> str:
    """The part of the weights that shares a network with ``spec``: type, layer or tensor."""
    if per == "type":
        return "vector" if spec.is_vector else "weight"
    return entry(spec.module if per == "layer" else spec.name) or "root"


INR = MlpInr
