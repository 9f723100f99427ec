"""A recipe and a network small enough to fit in a test; noise and losses are the paper's."""

from pathlib import Path

import torch
from torch import nn

from neumeta_cli.manifold import build_manifold
from neumeta_cli.manifold.inr import own_fields
from neumeta_cli.recipe import Recipe, parse_recipe
from neumeta_cli.tasks import load_task
from neumeta_cli.zoo.cifar_resnet import BasicBlock, CifarResNet

TINY = "tiny_fits:tiny_resnet"


def tiny_resnet() -> CifarResNet:
    """ResNet-20 with three blocks for its nine: two that change shape, and one that does not."""
    network = CifarResNet(blocks=1)
    network.layer1 = nn.Identity()
    network.layer3.append(BasicBlock(64, 64, 1))
    return network


def recipe_for(image_folder: Path, **fields: object) -> Recipe:
    base = {
        "scope": "paper",
        "name": "tiny",
        "model": {"arch": TINY, "input_size": [3, 16, 16]},
        "data": {"root": str(image_folder), "flip": True, "crop_padding": 2},
        "inr": {"kind": "factorised", "hidden": 8, "layers": 2, "frequencies": 3},
        "norm": {"fold": True},
        "noise": {"channels": 0.5, "sizes": 0.5, "samples": 2},
        "loss": {"recon": 1.0, "reg": 1e-4, "distill": 0.0},
        "fit": {
            "epochs": 2,
            "batch_size": 40,
            "precision": "float32",
            "update": 0.5,
            "anchors": [],
            "mixed": 0.0,
            "mixed_power": 1.0,
            "drawn_weight": 1.0,
            "start_images": 0,
        },
    }
    for key, value in fields.items():
        base[key] = {**base.get(key, {}), **value} if isinstance(value, dict) else value
    base["inr"] = own_fields(base["inr"])  # those of the network's size, where the kind has one
    return parse_recipe(base, "tiny")


def prepared(build, recipe: Recipe):
    model, arch = build(recipe.model.arch)
    size = recipe.model.input_size or arch.default_input_size()
    task = load_task(recipe.data, model, size, limit=recipe.fit.limit)
    torch.manual_seed(0)
    manifold, tensors = build_manifold(
        model, arch, size, recipe.scope, recipe.norm.fold, recipe.inr, recipe.noise
    )
    return manifold, tensors, task
