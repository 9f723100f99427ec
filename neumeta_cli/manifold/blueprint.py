"""Which network a manifold gives weights for, and where it came from."""

import copy
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from neumeta_cli.checkpoint import Arch, InputSize
from neumeta_cli.resize import fold_batch_norm, resizable
from neumeta_cli.trace import Trace, trace_model


@dataclass(frozen=True)
class Blueprint:
    """How to build the network that a manifold gives weights for.

    Attributes:
        arch: the architecture.
        input_size: (C, H, W).
        fold: whether batch norm is folded into the layers before it.
        scope: names of the cliques that morph.
        heads: what of attention heads a width changes, ``width`` or ``count``.

    """

    arch: Arch
    input_size: InputSize
    fold: bool
    scope: tuple[str, ...]
    heads: str = "width"


@dataclass(frozen=True)
class Provenance:
    """Where a manifold came from: the checkpoint's name and hash, the recipe, what was measured."""

    checkpoint: str = ""
    sha256: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


def rebuild_structure(blueprint: Blueprint) -> tuple[nn.Module, Trace]:
    """The network of a blueprint and its trace, with no weights but the constants it computes."""
    model = blueprint.arch.build("meta")
    if any(name not in model.state_dict() for name, _ in model.named_buffers()):
        model = blueprint.arch.build("cpu")
    how = blueprint.input_size, blueprint.fold, blueprint.heads
    structure, trace, _ = prepare_structure(model, *how)
    return structure, trace


def prepare_structure(
    model: nn.Module, input_size: InputSize, fold: bool, heads: str = "width"
) -> tuple[nn.Module, Trace, dict[str, Tensor]]:
    """A copy of a network as it is fitted, its trace, and its weights."""
    structure = copy.deepcopy(model).eval()
    if fold:
        structure = fold_batch_norm(structure, input_size)
    trace = resizable(structure, trace_model(structure, input_size), input_size, heads)
    return structure, trace, dict(structure.state_dict())
