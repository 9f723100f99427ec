"""Recipes: everything that a fit depends on, in one YAML file, checked before any data is read."""

from neumeta_cli.recipe.auto import AutoRecipe, auto_recipe
from neumeta_cli.recipe.load import (
    changed,
    field_paths,
    load_recipe,
    parse_recipe,
    recipe_schema,
    unknown_field,
)
from neumeta_cli.recipe.recipe import Recipe

__all__ = [
    "AutoRecipe",
    "Recipe",
    "auto_recipe",
    "changed",
    "field_paths",
    "load_recipe",
    "parse_recipe",
    "recipe_schema",
    "unknown_field",
]
