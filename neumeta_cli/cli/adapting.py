"""Recipes and data as a command line asks for them."""

from pathlib import Path
from typing import Any

import yaml

from neumeta_cli.checkpoint import Checkpoint
from neumeta_cli.errors import NeumetaError
from neumeta_cli.recipe import Recipe, load_recipe, parse_recipe
from neumeta_cli.sections import DataSection
from neumeta_cli.shipped import recipe_files
from neumeta_cli.tasks import NOTHING_TO_READ, Task, task_class


def adapted(
    name: str,
    overrides: list[str] | None,
    checkpoint: Path | None = None,
    data: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    download: bool = False,
    weights_key: str | None = None,
) -> Recipe:
    """A recipe with what the command line says in place of its own fields."""
    extra = list(overrides or [])
    if download:
        extra.append("data.download=true")
    if epochs is not None:
        extra.append(f"fit.epochs={epochs}")
    if seed is not None:
        extra.append(f"seed={seed}")
    recipe = load_recipe(name, extra)
    if data is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.at(data)})
    said = {
        # A link stays one, as what it points to may have no ending.
        "checkpoint": None if checkpoint is None else str(checkpoint.absolute()),
        "weights_key": weights_key,
    }
    model = recipe.model.model_copy(update={k: v for k, v in said.items() if v is not None})
    return recipe.model_copy(update={"model": model})


def recipe_for(checkpoint: Checkpoint) -> str:
    """The recipe that comes with neumeta for this architecture."""
    from neumeta_cli.pipeline import recipe_arch

    fitting = []
    for name, path in recipe_files().items():
        recipe = parse_recipe(yaml.safe_load(path.read_text("utf-8")), name)
        fits = recipe.model.arch in (checkpoint.arch.short, checkpoint.arch.name)
        if fits and not recipe.compare.vary:  # which are ablations
            same = recipe_arch(recipe).kwargs == checkpoint.arch.kwargs
            fitting.append((not same, name))
    if fitting:
        return min(fitting)[1]
    raise NeumetaError(
        f"no recipe for {checkpoint.arch.name} comes with neumeta; give one with --recipe "
        "(start from: neumeta recipes show imagenet_r18)"
    )


def how_to_read(
    data: str | None,
    recipe: str | None,
    recorded: dict[str, Any],
    trust_code: bool,
    download: bool = False,
) -> tuple[DataSection, type[Task]]:
    """How to read the data: the recipe named, else what a file recorded, else ImageNet's way.

    Args:
        data: the folder.
        recipe: name or file.
        recorded: with the keys ``data`` and ``task`` of a recipe, if the file has them.
        trust_code: import the task that a file names, if it is a user's own.
        download: fetch the data first.

    """
    if recipe is not None:
        named = load_recipe(recipe)
        section, kind = named.data, task_class(named.task, trust_code=True)
    else:
        section = DataSection(**recorded.get("data", {}))
        kind = task_class(recorded.get("task", "classification"), trust_code)
    if download:
        section = section.model_copy(update={"download": True})
    if data is None:
        if section.root is None and section.format not in NOTHING_TO_READ:
            raise NeumetaError("no data folder given; pass --data DIR, or --recipe NAME")
        return section, kind
    return section.at(data), kind
