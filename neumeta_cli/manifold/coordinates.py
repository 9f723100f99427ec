"""Model-space coordinates: where in the network, and in a network of which size, a weight lies."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold.layouts import Layout, held_dims
from neumeta_cli.trace import Clique, Trace


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

    Attributes:
        spec: which tensor.
        c_out, c_in: rows and columns of weights; a vector has one column.
        size_in: C_in as the coordinates say it; for a vector that of its sibling.
        kept: places along the checkpoint's output and input dimension of the channels that an INR
            which selects begins with; None for all.
        rooms: for each change of such an INR, by dimension, the places of the channels it has.

    """

    spec: TensorSpec
    c_out: int
    c_in: int
    size_in: int
    kept: tuple[Tensor | None, Tensor | None] = (None, None)
    rooms: tuple[Mapping[int, Tensor], ...] = ()

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
        self, target: Target, noise: Noise | None, device: torch.device, draws: int = 1
    ) -> Tensor:
        """Coordinates of every weight of a tensor, ``draws`` times over.

        Returns:
            (draws · c_out · c_in, 6), rows
            ``[l/L, c_in/C_in, c_out/C_out, L/N, C_in/N, C_out/N]``, the kernel's elements sharing
            a row.

        """
        rows = torch.arange(target.c_out, dtype=torch.float32, device=device)
        columns = torch.arange(target.c_in, dtype=torch.float32, device=device)
        c_out, c_in = (g.flatten() for g in torch.meshgrid(rows, columns, indexing="ij"))
        size_in = torch.full_like(c_in, target.size_in)
        size_out = torch.full_like(c_out, target.c_out)
        if noise is not None:
            jitter = noise.draw(draws, 4, len(c_in), like=c_in).unbind(1)
            c_out = c_out + noise.channels * jitter[0]
            if not target.spec.is_vector:
                c_in = c_in + noise.channels * jitter[1]
            size_in = size_in + noise.sizes * jitter[2]
            size_out = size_out + noise.sizes * jitter[3]
        points = torch.empty(6, draws, target.c_out * target.c_in, device=device)
        points[0], points[3] = target.spec.layer / self.layers, self.layers / self.largest
        points[1], points[2] = c_in / size_in, c_out / size_out
        points[4], points[5] = size_in / self.largest, size_out / self.largest
        return points.flatten(1).T


def resolve_scope(
    trace: Trace, scope: str | Sequence[str], layouts: Mapping[str, Layout]
) -> tuple[str, ...]:
    """The cliques that morph.

    Args:
        trace: of the network as it is fitted.
        scope: ``all``; ``paper``, the inner channels of the last block; or patterns of clique
            names such as ``layer3.*``.
        layouts: of the network's parameters.

    Raises:
        NeumetaError: a pattern that fits no clique, or only cliques that cannot change.

    """
    free = [c for c in trace.cliques if not why_held(c, layouts)]
    if not free:
        raise NeumetaError("no clique of this network can change its width; see: neumeta trace")
    if scope == "all":
        return tuple(c.name for c in free)
    if scope == "paper":
        return tuple(c.name for c in _last_block(free))
    chosen: list[str] = []
    for pattern in [scope] if isinstance(scope, str) else scope:
        found = [c for c in trace.cliques if fnmatchcase(c.name, pattern)]
        if not found:
            names = ", ".join(c.name for c in trace.cliques)
            raise NeumetaError(f"scope {pattern!r} fits no clique; there are: {names}")
        for clique in found:
            if reason := why_held(clique, layouts):
                raise NeumetaError(f"scope {pattern!r}: clique {clique.name} is held: {reason}")
            chosen.append(clique.name)
    return tuple(dict.fromkeys(chosen))


def why_held(clique: Clique, layouts: Mapping[str, Layout]) -> str:
    """Why a clique cannot morph, empty if it can."""
    if clique.held:
        return clique.held
    for member in clique.members:
        if held_dims(layouts, member.weight, member.dim):
            return f"{member} is neither an input nor an output dimension"
    return ""


def _last_block(cliques: Sequence[Clique]) -> list[Clique]:
    """The last clique, and with it those that lie wholly in the same block."""
    last = cliques[-1]
    block = last.name.rpartition(".")[0]

    def inside(clique: Clique) -> bool:
        return all(m.weight.startswith(block + ".") for m in clique.members)

    return [c for c in cliques if block and inside(c)] or [last]


def tensor_specs(
    trace: Trace,
    scope: Sequence[str],
    tensors: Mapping[str, Tensor],
    layouts: Mapping[str, Layout],
    norm_of: Mapping[str, str],
) -> tuple[TensorSpec, ...]:
    """The parameters to generate: all of every module that a clique in scope runs through.

    Args:
        trace: of the network.
        scope: names of cliques.
        tensors: weights by name.
        layouts: of the parameters among them.
        norm_of: module to the norm that reads its output alone; it comes along.

    """
    touched = {
        m.weight.rpartition(".")[0] for c in trace.cliques if c.name in scope for m in c.members
    }
    touched |= {norm_of[module] for module in touched if module in norm_of}
    names = [n for n in trace.shapes if n in layouts and n.rpartition(".")[0] in touched]
    shapes = {name: layouts[name].shape(tensors[name].shape) for name in names}
    specs = []
    for layer, name in enumerate(names):
        module = name.rpartition(".")[0]
        siblings = [n for n in names if n.rpartition(".")[0] == module and len(shapes[n]) > 1]
        sibling = siblings[0] if len(shapes[name]) == 1 and siblings else None
        specs.append(TensorSpec(name, layer, shapes[name], sibling, layouts[name]))
    return tuple(specs)
