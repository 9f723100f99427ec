"""What a file of ours says that it is, and of which version; needs no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neumeta_cli.errors import NeumetaError

FORMAT_VERSION = 2  # of what is written
COMPACT_VERSION = 3  # of a compact manifold, which is the newest that is read
MANIFOLD, NETWORK = "manifold", "network"  # kinds of files; a network is one that was exported


def check_version(path: Path, metadata: Mapping[str, Any], kind: str) -> None:
    """Refuse a file of another kind or of a newer format."""
    if metadata.get("kind") != kind:
        found = metadata.get("kind", "plain weights file")
        again = f"see: neumeta info {path}"
        if found == NETWORK:
            again = f"a manifold of it, for narrower ones: neumeta distill {path} --data DIR"
        raise NeumetaError(f"{path} is a {found}, not a neumeta {kind}; {again}")
    version = metadata.get("format_version")
    if type(version) is not int or version < 1:
        raise NeumetaError(f"{path} is damaged: it has no format version")
    if version > COMPACT_VERSION:
        raise NeumetaError(
            f"{path} has format version {version}, this neumeta reads up to {COMPACT_VERSION}; "
            "upgrade neumeta"
        )
