"""Recipes: everything that a fit depends on, in one YAML file, checked before any data is read."""

from neumeta_cli.recipe.load import (
    field_paths,
    load_recipe,
    parse_recipe,
    recipe_schema,
    unknown_field,
)
from neumeta_cli.recipe.recipe import Recipe

__all__ = [
    "Recipe",
    "field_paths",
    "load_recipe",
    "parse_recipe",
    "recipe_schema",
    "unknown_field",
]
