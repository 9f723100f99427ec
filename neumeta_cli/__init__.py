"""Neural Metamorphosis: one pretrained checkpoint in, networks of any width out."""

from neumeta_cli.checkpoint import load_checkpoint
from neumeta_cli.distill import fit_manifold
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export import export_network, load
from neumeta_cli.manifold import Manifold, build_manifold
from neumeta_cli.permute import permute_model
from neumeta_cli.recipe import load_recipe
from neumeta_cli.trace import trace_model

__all__ = [
    "Manifold",
    "NeumetaError",
    "build_manifold",
    "export_network",
    "fit_manifold",
    "load",
    "load_checkpoint",
    "load_recipe",
    "permute_model",
    "trace_model",
]
