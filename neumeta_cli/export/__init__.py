"""A network on disk, and back."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from neumeta_cli.checkpoint import Weights, load_checkpoint, read_weights, write_weights
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import (
    FORMAT_VERSION,
    Manifold,
    blueprint_from_json,
    blueprint_to_json,
    check_version,
    load_manifold,
    rebuild_structure,
)
from neumeta_cli.reporting import Reporter
from neumeta_cli.resize import build_resized

KIND = "network"
SUFFIXES = (".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class Exported:
    """A network that was written: the module, the channels of its cliques, the file."""

    model: nn.Module
    sizes: dict[str, int]
    path: Path


def export_network(
    manifold: Manifold,
    path: Path,
    width: float,
    samples: int | None = None,
    reporter: Reporter | None = None,
) -> Exported:
    """Write the network of one width; ``load`` gives it back.

    Args:
        manifold: a fitted one.
        path: ``.pt`` (a state dict for ``torch.load(weights_only=True)``) or ``.safetensors``.
        width: kept over full channels of the cliques in scope; above 1 extrapolates.
        samples: K, the manifold's own if None.
        reporter: is told of the progress.

    Raises:
        NeumetaError: a width that is not positive, another ending, or a file that cannot be
            written.

    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise NeumetaError(f"cannot export to {path}: use one of the endings {', '.join(SUFFIXES)}")
    sizes = manifold.sizes(width)
    model = manifold.sample(width, samples=samples, reporter=reporter).cpu()
    metadata = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        **blueprint_to_json(manifold.blueprint),
        "width": width,
        "sizes": sizes,
        "data": manifold.provenance.recipe.get("data", {}) | {"root": None},
        "task": manifold.provenance.recipe.get("task", "classification"),
        "provenance": {
            "checkpoint": manifold.provenance.checkpoint,
            "sha256": manifold.provenance.sha256,
        },
    }
    write_weights(path, Weights(dict(model.state_dict()), metadata))
    return Exported(model, sizes, path)


def load(path: str | Path, arch: str | None = None, trust_code: bool = False) -> Any:
    """Load whatever neumeta wrote or reads.

    Args:
        path: a manifold, an exported network or a checkpoint.
        arch: the architecture, for a checkpoint that does not tell.
        trust_code: import the user's module that the file names, if it names one.

    Returns:
        A ``Manifold`` for a manifold, otherwise the ``nn.Module`` in evaluation mode.

    Raises:
        NeumetaError: the file cannot be read.

    """
    path = Path(path)
    weights = read_weights(path)
    kind = weights.metadata.get("kind")
    if kind == "manifold":
        return load_manifold(path, trust_code)
    if kind == KIND:
        return _load_network(path, weights, trust_code)
    return load_checkpoint(path, arch).model


def _load_network(path: Path, weights: Weights, trust_code: bool) -> nn.Module:
    check_version(path, weights.metadata, KIND)
    try:
        blueprint = blueprint_from_json(weights.metadata, trust_code)
        sizes = {str(name): int(n) for name, n in weights.metadata["sizes"].items()}
        structure, trace = rebuild_structure(blueprint)
        return build_resized(structure, trace, sizes, weights.tensors)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NeumetaError(f"{path} is a damaged network file: {reason}") from error


def describe(path: Path) -> dict[str, Any]:
    """What is in a file that neumeta reads or writes, as plain JSON types.

    Raises:
        NeumetaError: the file cannot be read.

    """
    path = Path(path)
    weights = read_weights(path)
    tensors = weights.tensors.values()
    known: dict[str, Any] = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "kind": weights.metadata.get("kind", "checkpoint"),
        "tensors": len(weights.tensors),
        "values": sum(t.numel() for t in tensors),
        "dtypes": sorted({str(t.dtype).removeprefix("torch.") for t in tensors}),
    }
    return known | {k: v for k, v in weights.metadata.items() if k != "kind"}


def to_json(document: Any) -> str:
    """JSON as our files and ``--json`` have it."""
    return json.dumps(document, indent=2, ensure_ascii=False)
