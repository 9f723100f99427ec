"""Computing the part of a network that never changes once, and only the rest in every step.

A first run finds which function calls depend on generated tensors; the results of the others that
these read are the *boundary*. Later runs take the boundary from memory: calls before it see tensors
on the meta device and compute nothing. The model's own forward runs either way, so any control flow
that does not depend on values works.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from neumeta_cli.distill.stateless import run_with


@dataclass(frozen=True)
class Split:
    """Where the frozen part ends.

    Attributes:
        boundary: numbers of the function calls whose results the live part reads.
        skipped: names of the weights that the frozen part alone reads.
        features: the boundary's values in this run, (batch, ...).
        output: what the network gave.

    """

    boundary: tuple[int, ...]
    skipped: frozenset[str]
    features: tuple[Tensor, ...]
    output: Any


class _Watch(TorchFunctionMode):
    """Follow what depends on the live tensors."""

    def __init__(self, live: set[int], names: Mapping[int, str], x: Tensor) -> None:
        super().__init__()
        self.live, self.names = live, names
        self.calls = 0
        self.maker: dict[int, int] = {id(x): -1}  # frozen tensor to the call that made it
        self.results: dict[int, Tensor] = {}
        self.needed: set[int] = set()
        self.read: dict[bool, set[str]] = {True: set(), False: set()}
        self.alive: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        number, self.calls = self.calls, self.calls + 1
        out = func(*args, **(kwargs or {}))
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        depends = any(id(t) in self.live for t in inputs)
        if not outs:
            return out
        self.read[depends] |= {self.names[id(t)] for t in inputs if id(t) in self.names}
        self.alive += outs
        for tensor in inputs if depends else ():
            if id(tensor) in self.maker:
                self.needed.add(self.maker[id(tensor)])
        for tensor in outs:
            if depends:
                self.live.add(id(tensor))
            elif id(tensor) not in self.names:
                self.maker[id(tensor)] = number
        if not depends and len(outs) == 1 and outs[0] is out:
            self.results[number] = out.detach().clone()  # a later call may change it in place
        return out


class _Replay(TorchFunctionMode):
    """Give the boundary's values instead of computing them."""

    def __init__(self, stored: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.stored, self.calls = stored, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        number, self.calls = self.calls, self.calls + 1
        if number in self.stored:
            return self.stored[number]
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def find_split(
    model: nn.Module, tensors: Mapping[str, Tensor], live: set[str], x: Tensor
) -> Split | None:
    """Run a network and find its frozen part.

    Args:
        model: the structure.
        tensors: all its weights.
        live: names of those that will change.
        x: (batch, C, H, W).

    Returns:
        The split, or None where there is nothing to gain: a live tensor meets the input, or a
        weight is read on both sides.

    """
    names = {id(t): name for name, t in tensors.items()}
    watch = _Watch({id(tensors[name]) for name in live}, names, x)
    with watch:
        output = run_with(model, tensors, (x,))
    boundary = tuple(sorted(watch.needed))
    if any(n not in watch.results or len(watch.results[n]) != len(x) for n in boundary):
        return None
    if not boundary or watch.read[True] & watch.read[False]:
        return None
    features = tuple(watch.results[n] for n in boundary)
    return Split(boundary, frozenset(watch.read[False]), features, output)


def run_live(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    split: Split,
    features: tuple[Tensor, ...],
    input_size: tuple[int, ...],
) -> Any:
    """Run only the part of the network that depends on live tensors.

    Args:
        model: the structure, at the sizes of ``tensors``.
        tensors: all weights.
        split: from ``find_split``.
        features: the boundary's values for this batch.
        input_size: (C, H, W).

    """
    weights = {n: t.to("meta") if n in split.skipped else t for n, t in tensors.items()}
    x = torch.empty(len(features[0]), *input_size, device="meta")
    with _Replay(dict(zip(split.boundary, features, strict=True))):
        return run_with(model, weights, (x,))
