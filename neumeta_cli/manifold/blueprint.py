"""Which network a manifold gives weights for, and where it came from."""

from dataclasses import dataclass, field, replace
from typing import Any

from neumeta_cli.checkpoint import Arch, InputSize
from neumeta_cli.resize import Frame, open_folded


@dataclass(frozen=True)
class Blueprint:
    """How to build the network that a manifold gives weights for.

    Attributes:
        arch: the architecture.
        input_size: (C, H, W).
        fold: whether batch norm is folded into the layers before it.
        scope: names of the cliques that morph.
        heads: what of attention heads a width changes, ``width``, ``count`` or ``both``.

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


def rebuild_frame(blueprint: Blueprint) -> Frame:
    """The frame of a blueprint, with no weights but the constants that the network computes.

    Raises:
        ValueError: its scope is none of this network.

    """
    model = blueprint.arch.build_with_tables()
    frame = open_folded(model, blueprint.input_size, blueprint.heads, blueprint.fold)
    unknown = set(blueprint.scope) - {clique.name for clique in frame.trace.cliques}
    if unknown:
        raise ValueError(f"there is no clique {min(unknown)}")
    return replace(frame, scope=blueprint.scope)
