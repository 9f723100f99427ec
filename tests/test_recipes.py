"""Recipes: what the shipped ones resolve to."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

from neumeta_cli.recipe import Recipe, load_recipe, parse_recipe
from neumeta_cli.shipped import recipe_files

SETTINGS = json.loads((REPOSITORY / "tests" / "recipe_settings.json").read_text("utf-8"))
"""Every field of every recipe that ships, and the paper's, written down: what fits depend on."""


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Every field but the texts; a checkpoint's by its name alone, as folders differ."""
    settings = recipe.model_dump(mode="json", exclude={"name", "description"})
    checkpoint = settings["model"]["checkpoint"]
    settings["model"]["checkpoint"] = checkpoint and Path(checkpoint).name
    return settings


@pytest.mark.parametrize("name", recipe_files())
def test_a_shipped_recipe_resolves_to_the_settings_written_down(name: str) -> None:
    assert settings_of(load_recipe(name)) == SETTINGS[name]


def test_the_example_of_a_task_resolves_to_the_settings_written_down() -> None:
    example = REPOSITORY / "examples" / "own_task.yaml"
    assert settings_of(load_recipe(str(example))) == SETTINGS["own_task"]


def test_the_papers_values_are_those_written_down() -> None:
    recipe = parse_recipe({"name": "paper", "model": {"arch": "lenet"}}, "paper")
    assert settings_of(recipe) == SETTINGS["paper"]
