"""Model-space coordinates, the INR, sampling, and the file that stores a manifold."""

from neumeta_cli.manifold.blueprint import Blueprint, Provenance, rebuild_frame
from neumeta_cli.manifold.coordinates import Noise
from neumeta_cli.manifold.field import Field
from neumeta_cli.manifold.file import (
    FORMAT_VERSION,
    blueprint_from_json,
    blueprint_to_json,
    check_version,
    load_manifold,
    save_manifold,
)
from neumeta_cli.manifold.live import LiveNetwork
from neumeta_cli.manifold.manifold import Manifold, build_manifold

__all__ = [
    "FORMAT_VERSION",
    "Blueprint",
    "Field",
    "LiveNetwork",
    "Manifold",
    "Noise",
    "Provenance",
    "blueprint_from_json",
    "blueprint_to_json",
    "build_manifold",
    "check_version",
    "load_manifold",
    "rebuild_frame",
    "save_manifold",
]
