"""Files that earlier versions wrote open, and compute what they did."""

import json
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY

import neumeta_cli
from neumeta_cli.recipe import load_recipe

WRITTEN = sorted((REPOSITORY / "tests" / "data").glob("*"))


@pytest.mark.parametrize("folder", WRITTEN, ids=lambda folder: folder.name)
def test_files_of_earlier_versions_open(folder: Path) -> None:
    outputs = json.loads((folder / "outputs.json").read_text("utf-8"))
    x = torch.linspace(-1, 1, 2 * 64).view(2, 1, 8, 8)
    manifold = neumeta_cli.load(folder / "manifold.safetensors")
    networks = {
        "manifold at 1": manifold.sample(1.0),
        "manifold at 0.37": manifold.sample(0.37),
        "half.pt": neumeta_cli.load(folder / "half.pt"),
    }
    assert networks.keys() == outputs.keys()
    for name, network in networks.items():
        torch.testing.assert_close(network(x), torch.tensor(outputs[name]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("folder", WRITTEN, ids=lambda folder: folder.name)
def test_recipes_of_earlier_run_folders_are_read(folder: Path) -> None:
    recipe = load_recipe(str(folder / "recipe.yaml"))
    assert recipe.model.arch == "lenet_digits"
