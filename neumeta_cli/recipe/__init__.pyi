from .auto import (
    AutoRecipe as AutoRecipe,
    auto_recipe as auto_recipe,
    in_any_order as in_any_order,
    suited as suited,
)
from .load import (
    changed as changed,
    field_paths as field_paths,
    load_recipe as load_recipe,
    parse_recipe as parse_recipe,
    recipe_schema as recipe_schema,
    unknown_field as unknown_field,
)
from .recipe import Recipe as Recipe
