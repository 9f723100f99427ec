"""Small manifolds with random weights, for tests of what becomes of their networks."""

from pathlib import Path
from typing import Any

import torch
from conftest import randomise_norms
from tiny_fits import TINY

from neumeta_cli.checkpoint import resolve
from neumeta_cli.manifold import InrSettings, Manifold, build_manifold, inr_settings, save_manifold
from neumeta_cli.manifold.settings import NoiseSection

INR = inr_settings("selected", knots=[0.5], store="float32")
NOISE = NoiseSection(channels=0.3, sizes=0.5, samples=2)
RESNET, LENET = "cifar_resnet20", "lenet_digits"
SIZES = {TINY: (3, 16, 16)}  # of those whose library does not say
DATA = {
    TINY: {"format": "image_folder"},
    RESNET: {"format": "image_folder"},
    LENET: {"format": "digits", "mean": [0.3], "std": [0.4]},
}


def tiny_manifold(
    name: str = LENET,
    fold: bool = False,
    inr: InrSettings = INR,
    scope: str | list[str] = "all",
    **provenance: Any,
) -> Manifold:
    """Of a network with random weights, calibrated on random images where it has norms."""
    torch.manual_seed(0)
    arch = resolve(name)
    model = arch.build("cpu")
    randomise_norms(model)
    size = SIZES.get(name) or arch.default_input_size()
    manifold = build_manifold(model.requires_grad_(False), arch, size, scope, fold, inr, NOISE)[0]
    if manifold.norms:
        manifold.calibration.keep(torch.randn(16, *size), quality=90)
    recipe = {"name": "tiny", "data": DATA[name], "fit": {"gamma": [0.0, 0.5]}}
    manifold.provenance = type(manifold.provenance)("tiny.pth", "ab" * 32, recipe, provenance)
    return manifold.requires_grad_(False)


def saved_manifold(folder: Path, name: str = LENET, fold: bool = False) -> Path:
    return save_manifold(folder / "manifold.safetensors", tiny_manifold(name, fold))


def small_images(manifold: Manifold, count: int, dtype: torch.dtype = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *manifold.input_size, generator=generator).to(dtype)
