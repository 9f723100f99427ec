"""From a file back to a module."""

from pathlib import Path
from typing import Any

from torch import nn

from neumeta_cli.checkpoint import (
    MANIFOLD,
    Checkpoint,
    Weights,
    load_checkpoint,
    read_weights,
    refusing,
)
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export.precision import check_dtype
from neumeta_cli.export.programs import PROGRAMS
from neumeta_cli.manifold import load_manifold


def load(
    path: str | Path,
    arch: str | None = None,
    trust_code: bool = False,
    weights_key: str | None = None,
    trainable: bool = False,
) -> Any:
    """Load whatever neumeta wrote or reads.

    Args:
        path: a manifold, an exported network (``.pt`` or ``.safetensors``) or a checkpoint.
        arch: the architecture, for a checkpoint that does not tell.
        trust_code: import the user's module that the file names, if it names one.
        weights_key: which of several state dicts in a checkpoint's file, by its key or by the
            prefix of its names.
        trainable: its parameters require gradients; ``save`` writes it once it was trained.

    Returns:
        A ``Manifold`` for a manifold, otherwise the ``nn.Module`` in evaluation mode, with the
        number format that it was exported in.

    Raises:
        NeumetaError: the file cannot be read, or a manifold is to be trainable.

    """
    path = Path(path)
    if _read(path, weights_key)[0] == MANIFOLD:
        if trainable:
            raise NeumetaError(
                f"{path} is a manifold; neumeta fit trains it, and networks that it exports can be "
                "loaded with trainable=True"
            )
        return load_manifold(path, trust_code)
    opened = load_checkpoint(path, arch, weights_key=weights_key, trust_code=trust_code)
    model = in_own_format(opened)
    for parameter in model.parameters():
        parameter.requires_grad_(trainable and parameter.is_floating_point())
    return model


def in_own_format(checkpoint: Checkpoint) -> nn.Module:
    """A checkpoint's network, in the number format that it was written in."""
    with refusing(checkpoint.path, "file"):
        dtype = check_dtype(checkpoint.weights.metadata.get("dtype", "float32"))
    return checkpoint.model.to(dtype)


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
