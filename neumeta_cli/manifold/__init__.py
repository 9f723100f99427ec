"""Model-space coordinates, the INR, sampling, and the file that stores a manifold."""

from neumeta_cli.manifold.blueprint import Blueprint, Provenance, rebuild_frame
from neumeta_cli.manifold.file import (
    FORMAT_VERSION,
    blueprint_from_json,
    blueprint_to_json,
    check_version,
    load_manifold,
    save_manifold,
)
from neumeta_cli.manifold.inr import (
    KINDS,
    AnyInrSettings,
    Inr,
    InrSettings,
    Noise,
    inr_settings,
)
from neumeta_cli.manifold.live import LiveNetwork
from neumeta_cli.manifold.manifold import Manifold, build_manifold
from neumeta_cli.manifold.repeated import RepeatedDraws

__all__ = [
    "FORMAT_VERSION",
    "KINDS",
    "AnyInrSettings",
    "Blueprint",
    "Inr",
    "InrSettings",
    "LiveNetwork",
    "Manifold",
    "Noise",
    "Provenance",
    "RepeatedDraws",
    "blueprint_from_json",
    "blueprint_to_json",
    "build_manifold",
    "check_version",
    "inr_settings",
    "load_manifold",
    "rebuild_frame",
    "save_manifold",
]
