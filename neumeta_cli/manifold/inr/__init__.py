"""Implicit neural representations: from coordinates to weights; a file for each kind."""

from neumeta_cli.manifold.inr.base import Inr, InrSettings
from neumeta_cli.manifold.inr.coordinates import Noise, Target, TensorSpec, tensor_specs
from neumeta_cli.manifold.inr.kinds import KINDS, AnyInrSettings, inr_settings, own_fields

__all__ = [
    "KINDS",
    "AnyInrSettings",
    "Inr",
    "InrSettings",
    "Noise",
    "Target",
    "TensorSpec",
    "inr_settings",
    "own_fields",
    "tensor_specs",
]
