"""The table of rules, and the call that a rule is given.

A rule ties atoms and gives the labels of each output tensor. An operator without a rule fixes
every dimension that it touches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor

from neumeta_cli.trace.labels import Atoms, Labels


class RefusedError(Exception):
    """A rule met a case that it does not cover; its arguments are fixed instead."""


@cache
def _names(func: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((a.name, a.default_value) for a in func._schema.arguments)


@dataclass(frozen=True)
class Call:
    """One call of an operator.

    Attributes:
        atoms: of the trace.
        func: the ATen overload.
        args, kwargs: as called.
        outs: output tensors.
        lookup: labels of a tensor.

    """

    atoms: Atoms
    func: Any
    args: Sequence[Any]
    kwargs: dict[str, Any]
    outs: Sequence[Tensor]
    lookup: Callable[[Tensor], Labels]

    def arg(self, name: str, default: Any = None) -> Any:
        """An argument by its name in the operator's schema."""
        if name in self.kwargs:
            return self.kwargs[name]
        for place, (own, preset) in enumerate(_names(self.func)):
            if own == name:
                return self.args[place] if place < len(self.args) else preset
        return default

    def labels(self, name: str) -> Labels | None:
        """Labels of an argument, None if it is no tensor."""
        value = self.arg(name)
        return self.lookup(value) if isinstance(value, Tensor) else None

    def given(self, name: str) -> Labels:
        """Labels of an argument that is always a tensor."""
        return self.lookup(self.arg(name))

    @property
    def first(self) -> Tensor:
        """The first argument, a tensor."""
        tensor: Tensor = self.args[0] if self.args else next(iter(self.kwargs.values()))
        return tensor

    @property
    def x(self) -> Labels:
        """Labels of the first argument."""
        return self.lookup(self.first)

    @property
    def tensors(self) -> list[Tensor]:
        """All arguments that are tensors themselves."""
        return [a for a in (*self.args, *self.kwargs.values()) if isinstance(a, Tensor)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first output."""
        return tuple(self.outs[0].shape)

    def dims(self, name: str = "dim") -> list[int]:
        """An argument that names one dimension or several of the first, all if it is None."""
        given, rank = self.arg(name), self.first.dim()
        if given is None or given == []:
            return list(range(rank))
        return [d % rank for d in ([given] if isinstance(given, int) else given)] if rank else []


Rule = Callable[[Call], list[Labels]]
RULES: dict[str, Rule] = {}


def rule(names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ATen operators, by base name (``aten.add.Tensor`` is ``add``)."""

    def register(function: Rule) -> Rule:
        for name in names.split():
            RULES[name] = function
        return function

    return register
