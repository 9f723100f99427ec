"""Recipes and data as a command line asks for them."""

from pathlib import Path
from typing import Any

from neumeta_cli.checkpoint import Checkpoint, write_text
from neumeta_cli.cli.console import note
from neumeta_cli.errors import NeumetaError
from neumeta_cli.recipe import Recipe, auto_recipe, load_recipe
from neumeta_cli.resize import open_frame
from neumeta_cli.tasks import NOTHING_TO_READ, Task, find_images, task_class
from neumeta_cli.tasks.settings import DataSection


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
    recipe = load_recipe(name, _said(overrides, epochs, seed, download))
    if data is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.at(data)})
    said = {
        # A link stays one, as what it points to may have no ending.
        "checkpoint": None if checkpoint is None else str(checkpoint.absolute()),
        "weights_key": weights_key,
    }
    model = recipe.model.model_copy(update={k: v for k, v in said.items() if v is not None})
    return recipe.model_copy(update={"model": model})


def automatic(
    checkpoint: Checkpoint,
    overrides: list[str] | None,
    data: str | None,
    epochs: int | None = None,
    seed: int | None = None,
    download: bool = False,
    save: Path | None = None,
    weights_key: str | None = None,
) -> Recipe:
    """The automatic recipe for a network and a folder of images, told and perhaps kept in a file.

    Raises:
        NeumetaError: no folder is given, it does not hold images, or the file cannot be written.

    """
    section = DataSection(root=data)
    images = find_images(section, "train", checkpoint.input_size)
    frame = open_frame(checkpoint.model, checkpoint.input_size)
    root = {} if data is None else {"root": str(Path(data).absolute())}
    said = _said(overrides, epochs, seed, download)
    said += [] if weights_key is None else [f"model.weights_key={weights_key}"]
    found = auto_recipe(checkpoint, frame, len(images), root, overrides=said)
    note("automatic recipe, for the whole network:")
    for reason in found.reasons:
        note(f"  {reason}")
    if save is not None:
        write_text(save, found.as_yaml())
        note(f"written: {save}; use it with --recipe {save}")
    return found.recipe


def _said(
    overrides: list[str] | None, epochs: int | None, seed: int | None, download: bool
) -> list[str]:
    """Options that stand for a field, beside ``--set``."""
    said = list(overrides or [])
    if download:
        said.append("data.download=true")
    if epochs is not None:
        said.append(f"fit.epochs={epochs}")
    if seed is not None:
        said.append(f"seed={seed}")
    return said


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
