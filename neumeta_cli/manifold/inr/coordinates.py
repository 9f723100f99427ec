"""Model-space coordinates: where in the network, and in a network of which size, a weight lies."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neumeta_cli.resize import Layout

if TYPE_CHECKING:
    from neumeta_cli.resize import Frame


@dataclass(frozen=True)
class TensorSpec:
    """One tensor that the manifold generates.

    Attributes:
        name: of the parameter.
        layer: l, its place among the generated tensors in the order of the forward pass.
        shape: in the checkpoint, turned: (C_out, C_in, …), or (C_out,) for a vector.
        sibling: the weight whose inputs a vector's layer reads; its C_in is the vector's too.

    """

    name: str
    layer: int
    shape: tuple[int, ...]
    sibling: str | None
    layout: Layout = field(default_factory=lambda: Layout(0, 1))

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def is_vector(self) -> bool:
        return len(self.shape) == 1

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width of the kernel; 1×1 for linear layers and vectors."""
        tail = self.shape[2:]
        return (1, *tail) if len(tail) == 1 else (tail[0], math.prod(tail[1:])) if tail else (1, 1)


@dataclass(frozen=True)
class Target:
    """A tensor to generate at one size.

    The second of two matrices that are generated has 3 rows and 8 columns in the checkpoint. With
    4 of the 8 it is 3×4; where the largest size is 8, its last weight lies at 1/2 of the layers,
    3/4 of the inputs and 2/3 of the outputs::

        >>> target = Target(TensorSpec("2.weight", 1, (3, 8), None), c_out=3, c_in=4, size_in=4)
        >>> target.shape
        (3, 4)
        >>> at = Space(layers=2, largest=8).coordinates(target, None, torch.device("cpu"))
        >>> [round(value, 3) for value in at[-1].tolist()]
        [0.5, 0.75, 0.667, 0.25, 0.5, 0.375]

    Attributes:
        spec: which tensor.
        c_out, c_in: rows and columns of weights; a vector has one column.
        size_in: C_in as the coordinates say it; for a vector that of its sibling.
        place, layers: l and L, where the network lacks blocks and they are not the spec's and all.

    """

    spec: TensorSpec
    c_out: int
    c_in: int
    size_in: int
    place: int | None = None
    layers: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        if self.spec.is_vector:
            return (self.c_out,)
        return (self.c_out, self.c_in, *self.spec.shape[2:])


@dataclass(frozen=True)
class Noise:
    """Uniform noise on coordinates, ± channel indices (the paper: cross-model smoothness).

    Attributes:
        channels: on c_in and c_out.
        sizes: on C_in and C_out.
        generator: draws it, on the generator's own device.

    """

    channels: float
    sizes: float
    generator: torch.Generator

    def draw(self, *shape: int, like: Tensor) -> Tensor:
        """Uniform in [-1, 1)."""
        raw = torch.rand(shape, generator=self.generator, device=self.generator.device)
        return (raw * 2 - 1).to(like.device)


@dataclass(frozen=True)
class Space:
    """How raw coordinates are scaled: L generated tensors, and N, the largest channel count."""

    layers: int
    largest: int

    def coordinates(
        self,
        target: Target,
        noise: Noise | None,
        device: torch.device,
        draws: int = 1,
        places: Tensor | None = None,
    ) -> Tensor:
        """Coordinates of every weight of a tensor, ``draws`` times over.

        Args:
            target: which tensor, at which size.
            noise: perturbation, none if None.
            device: where they are made.
            draws: how often each is perturbed.
            places: (n,) among the c_out · c_in pairs of channels, those that are wanted; all if
                None.

        Returns:
            (draws · n, 6), rows ``[l/L, c_in/C_in, c_out/C_out, L/N, C_in/N, C_out/N]``, the
            kernel's elements sharing a row.

        """
        if places is None:
            places = torch.arange(target.c_out * target.c_in, device=device)
        c_out, c_in = (places // target.c_in).float(), (places % target.c_in).float()
        size_in = torch.full_like(c_in, target.size_in)
        size_out = torch.full_like(c_out, target.c_out)
        if noise is not None:
            jitter = noise.draw(draws, 4, len(c_in), like=c_in).unbind(1)
            c_out = c_out + noise.channels * jitter[0]
            if not target.spec.is_vector:
                c_in = c_in + noise.channels * jitter[1]
            size_in = size_in + noise.sizes * jitter[2]
            size_out = size_out + noise.sizes * jitter[3]
        points = torch.empty(6, draws, len(places), device=device)
        place = target.spec.layer if target.place is None else target.place
        layers = self.layers if target.layers is None else target.layers
        points[0], points[3] = place / layers, layers / self.largest
        points[1], points[2] = c_in / size_in, c_out / size_out
        points[4], points[5] = size_in / self.largest, size_out / self.largest
        return points.flatten(1).T


def tensor_specs(frame: "Frame", tensors: Mapping[str, Tensor]) -> tuple[TensorSpec, ...]:
    """The parameters to generate: all of every module that a clique in scope runs through.

    The norm that alone reads such a module's output comes along.

    Args:
        frame: of the network.
        tensors: its weights by name.

    """
    touched = {m.weight.rpartition(".")[0] for c in frame.cliques for m in c.members}
    touched |= {norm for layer, norm in frame.norm_of.items() if layer in touched}
    layouts = frame.layouts
    scalars = {name for name in layouts if tensors[name].dim() == 0}  # without channels: kept
    named = [name for name in frame.trace.shapes if name in layouts and name not in scalars]
    names = [name for name in named if name.rpartition(".")[0] in touched]
    shapes = {name: layouts[name].shape(tensors[name].shape) for name in names}
    specs = []
    for layer, name in enumerate(names):
        module = name.rpartition(".")[0]
        siblings = [n for n in names if n.rpartition(".")[0] == module and len(shapes[n]) > 1]
        sibling = siblings[0] if len(shapes[name]) == 1 and siblings else None
        specs.append(TensorSpec(name, layer, shapes[name], sibling, layouts[name]))
    return tuple(specs)
