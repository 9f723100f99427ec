"""Cliques: the (weight, dimension) pairs that must share one channel order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np

from neumeta_cli.trace.recorder import Recording, Refusal


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of one weight.

    Attributes:
        weight: name of the parameter or buffer.
        dim: dimension that the clique's channels run along.
        positions: (channels, repeats) indices along ``dim``; row i holds the places of channel i.
            A slice of the dimension starts at an offset; a flattened feature map repeats each
            channel height × width times.

    """

    weight: str
    dim: int
    positions: np.ndarray

    @property
    def offset(self) -> int:
        return int(self.positions[0, 0])

    @property
    def repeat(self) -> int:
        return int(self.positions.shape[1])

    def __str__(self) -> str:
        extra = f" from {self.offset}" if self.offset else ""
        extra += f" in blocks of {self.repeat}" if self.repeat > 1 else ""
        return f"{self.weight}[{self.dim}]{extra}"


@dataclass(frozen=True, eq=False)
class Clique:
    """Tied dimensions: one permutation, and one width, for all members.

    Attributes:
        name: the module that first makes these channels.
        channels: how many there are in the checkpoint.
        members: the tied dimensions, in the order in which the forward pass meets them.
        held: why the clique cannot change width, empty if it can.

    """

    name: str
    channels: int
    members: tuple[Member, ...]
    held: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "channels": self.channels,
            "held": self.held,
            "members": [
                {"weight": m.weight, "dim": m.dim, "offset": m.offset, "repeat": m.repeat}
                for m in self.members
            ],
        }


@dataclass(frozen=True, eq=False)
class Trace:
    """The dependency graph of a network.

    Attributes:
        graph: one node an operator, with ``op``, ``module``, ``shape`` and ``weights``.
        cliques: in the order of the forward pass.
        shapes: name to shape of every weight that the forward pass uses, in that order.
        refusals: operators that no rule covers; what they touch is fixed.
        output_shapes: shapes of the outputs for a batch of two.

    """

    graph: nx.DiGraph
    cliques: tuple[Clique, ...]
    shapes: Mapping[str, tuple[int, ...]]
    refusals: tuple[Refusal, ...]
    output_shapes: tuple[tuple[int, ...], ...]

    def parameters_in(self, clique: Clique) -> int:
        """Weights that ``clique`` governs: the sizes of its members, each tensor once."""
        names = {m.weight for m in clique.members}
        return sum(int(np.prod(self.shapes[name])) for name in names)

    def share_governed(self) -> float:
        """The share of all weights that lie inside some clique."""
        names = {m.weight for clique in self.cliques for m in clique.members}
        sizes = {name: int(np.prod(shape)) for name, shape in self.shapes.items()}
        return sum(sizes[name] for name in names) / max(1, sum(sizes.values()))

    def as_dict(self) -> dict[str, Any]:
        """Cliques and refusals as plain JSON types."""
        return {
            "cliques": [c.as_dict() | {"parameters": self.parameters_in(c)} for c in self.cliques],
            "refusals": [vars(r) for r in self.refusals],
            "operators": self.graph.number_of_nodes(),
            "share_governed": self.share_governed(),
            "weights": {name: list(shape) for name, shape in self.shapes.items()},
        }


def find_cliques(recording: Recording) -> tuple[Clique, ...]:
    """Group channels that every operator treats alike, and list where each stands."""
    channel, signature = recording.atoms.channels()
    places: dict[int, list[tuple[str, int, np.ndarray, np.ndarray]]] = {}
    for name, labels in recording.weights.items():
        for dim, label in enumerate(labels):
            if label is None:
                continue
            numbers = channel[label]
            for code in np.unique(signature[numbers]):
                if code != 0:
                    at = np.flatnonzero(signature[numbers] == code)
                    places.setdefault(int(code), []).append((name, dim, at, numbers[at]))
    cliques: list[Clique] = []
    for found in places.values():
        members, first = [], _in_order(found[0][3])
        for name, dim, at, numbers in found:
            members.append(Member(name, dim, _by_channel(first, at, numbers)))
        if len(first) > 1:
            cliques.append(Clique(_name(members, cliques), len(first), tuple(members)))
    return tuple(cliques)


def _in_order(numbers: np.ndarray) -> np.ndarray:
    """Distinct values in order of first appearance."""
    _, index = np.unique(numbers, return_index=True)
    return numbers[np.sort(index)]


def _by_channel(channels: np.ndarray, at: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Positions ``at`` of channels ``numbers``, one row a channel, in the order of ``channels``."""
    rank = np.empty(len(channels), np.int64)
    order = np.argsort(channels)
    rank[np.arange(len(channels))] = order
    row = rank[np.searchsorted(channels[order], numbers)]
    return at[np.lexsort((at, row))].reshape(len(channels), -1)


def _name(members: list[Member], before: list[Clique]) -> str:
    makers = [m for m in members if m.dim == 0] or members
    name = makers[0].weight.rpartition(".")[0] or makers[0].weight
    taken = sum(c.name == name or c.name.startswith(f"{name}#") for c in before)
    return f"{name}#{taken + 1}" if taken else name
