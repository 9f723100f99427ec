"""From a file back to a module."""

from pathlib import Path
from typing import Any

from torch import nn

from neumeta_cli.checkpoint import Weights, load_checkpoint, read_weights, refusing
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export.precision import check_dtype
from neumeta_cli.export.programs import PROGRAMS
from neumeta_cli.manifold import (
    MANIFOLD,
    NETWORK,
    blueprint_from_json,
    check_version,
    load_manifold,
    rebuild_frame,
)
from neumeta_cli.resize import Frame


def load(
    path: str | Path,
    arch: str | None = None,
    trust_code: bool = False,
    weights_key: str | None = None,
) -> Any:
    """Load whatever neumeta wrote or reads.

    Args:
        path: a manifold, an exported network (``.pt`` or ``.safetensors``) or a checkpoint.
        arch: the architecture, for a checkpoint that does not tell.
        trust_code: import the user's module that the file names, if it names one.
        weights_key: which of several state dicts in a checkpoint's file, by its key or by the
            prefix of its names.

    Returns:
        A ``Manifold`` for a manifold, otherwise the ``nn.Module`` in evaluation mode, with the
        number format that it was exported in.

    Raises:
        NeumetaError: the file cannot be read.

    """
    path = Path(path)
    kind, weights = _read(path, weights_key)
    if kind == MANIFOLD:
        return load_manifold(path, trust_code)
    if kind == NETWORK:
        return _load_network(path, weights, trust_code)
    return load_checkpoint(path, arch, weights_key=weights_key).model


def kind_of(path: Path, weights_key: str | None = None) -> str:
    """What a file of weights says that it is: ``checkpoint`` (also where it says nothing) or ours.

    Raises:
        NeumetaError: the file cannot be read, or is a program.

    """
    return _read(path, weights_key)[0]


def _read(path: Path, weights_key: str | None) -> tuple[str, Weights]:
    if program := PROGRAMS.get(path.suffix):
        raise NeumetaError(f"{path} is a program, not weights; run it with {program.run_by}")
    weights = read_weights(path, weights_key)
    return str(weights.metadata.get("kind", "checkpoint")), weights


def _load_network(path: Path, weights: Weights, trust_code: bool) -> nn.Module:
    check_version(path, weights.metadata, NETWORK)
    with refusing(path, NETWORK):
        dtype = check_dtype(weights.metadata.get("dtype", "float32"))
        blueprint = blueprint_from_json(weights.metadata, trust_code)
        sizes = {str(name): int(n) for name, n in weights.metadata["sizes"].items()}
        frame = rebuild_frame(blueprint)
        _check_sizes(frame, sizes, weights)
        return frame.build(sizes, weights.tensors).to(dtype)


def _check_sizes(frame: Frame, sizes: dict[str, int], weights: Weights) -> None:
    """Refuse sizes that the file's tensors do not have, before anything is made of such sizes."""
    unknown = sizes.keys() - {clique.name for clique in frame.trace.cliques}
    if unknown or any(size < 1 for size in sizes.values()):
        raise ValueError("its sizes are no channels of its architecture's cliques")
    for name, shape in frame.shapes(sizes).items():
        if name not in weights.tensors:
            raise ValueError(f"it lacks {name}")
        if tuple(weights.tensors[name].shape) != shape:
            raise ValueError(f"{name} is not of its size")
