"""What a file of ours says of the network in it."""

from collections.abc import Mapping
from typing import Any

from neumeta_cli.checkpoint import NETWORK, Checkpoint
from neumeta_cli.checkpoint.integrity import DIGEST
from neumeta_cli.data.preprocessing import PREPROCESSING


def own_metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a file of ours with a checkpoint's network says of itself."""
    metadata = checkpoint.weights.metadata
    if metadata.get("kind") == NETWORK:
        return {key: value for key, value in metadata.items() if key != DIGEST}
    return checkpoint_metadata(checkpoint, metadata.get(PREPROCESSING))


def checkpoint_metadata(
    checkpoint: Checkpoint, preprocessing: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a checkpoint of ours says of itself, and of what its images go through."""
    told = {} if preprocessing is None else {PREPROCESSING: dict(preprocessing)}
    return told | {
        "kind": "checkpoint",
        "arch": checkpoint.arch.as_dict(),
        "input_size": list(checkpoint.input_size),
    }
