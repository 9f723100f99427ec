"""Recipes and data as a command line asks for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neumeta_cli.checkpoint import Checkpoint
from neumeta_cli.errors import NeumetaError
from neumeta_cli.recipe import Recipe, load_recipe
from neumeta_cli.reporting import Reporter
from neumeta_cli.shipped import recipe_files
from neumeta_cli.tasks import NOTHING_TO_READ, Task, task_class
from neumeta_cli.tasks.preprocessing import Preprocessing, as_before, resolved
from neumeta_cli.tasks.settings import DataSection


def adapted(
    name: str,
    overrides: list[str] | None,
    checkpoint: Path | None = None,
    data: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    download: bool = False,
    test_data: str | None = None,
    skip_broken: bool = False,
    of_a_run: bool = False,
) -> Recipe:
    """A recipe with what the command line says in place of its own fields.

    With ``of_a_run`` it is from a run's folder, where all was settled when the run began.
    """
    extra = list(overrides or [])
    if download:
        extra.append("data.download=true")
    if skip_broken:
        extra.append("data.skip_broken=true")
    if epochs is not None:
        extra.append(f"fit.epochs={epochs}")
    if seed is not None:
        extra.append(f"seed={seed}")
    recipe = load_recipe(name, extra)
    section = as_before(recipe.data) if of_a_run else recipe.data
    if data is not None:
        section = section.at(data)
    if test_data is not None:
        section = section.model_copy(update={"test_root": test_data})
    recipe = recipe.model_copy(update={"data": section})
    if checkpoint is not None:
        model = recipe.model.model_copy(update={"checkpoint": str(checkpoint.resolve())})
        recipe = recipe.model_copy(update={"model": model})
    return recipe


def recipe_for(checkpoint: Checkpoint) -> str:
    """The recipe that comes with neumeta for this architecture."""
    from neumeta_cli.pipeline import recipe_arch

    fitting = []
    for name in recipe_files():
        recipe = load_recipe(name)
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


@dataclass(frozen=True)
class Asked:
    """What a command line says of the data that a network is measured on.

    Attributes:
        data: the folder.
        test_data: a folder all of whose images are for testing.
        recipe: name or file of one that says how to read them.
        download: fetch them first.
        skip_broken: leave out what cannot be read.

    """

    data: str | None = None
    test_data: str | None = None
    recipe: str | None = None
    download: bool = False
    skip_broken: bool = False


def how_to_read(
    asked: Asked,
    recorded: Mapping[str, Any],
    own: Preprocessing,
    trust_code: bool,
    reporter: Reporter,
) -> tuple[DataSection, type[Task]]:
    """How to read the data: the recipe named, else what a file recorded, else ImageNet's way.

    Args:
        asked: the command line.
        recorded: with the keys ``data`` and ``task`` of a recipe, if the file has them.
        own: preprocessing of the network.
        trust_code: import the task that a file names, if it is a user's own.
        reporter: is told of the preprocessing.

    """
    by = "the recipe"
    if asked.recipe is not None:
        named = load_recipe(asked.recipe)
        section, kind = named.data, task_class(named.task, trust_code=True)
    else:
        section = DataSection(**recorded.get("data", {}))
        if recorded.get("data"):
            section, by = as_before(section), "the file"
        kind = task_class(recorded.get("task", "classification"), trust_code)
    change: dict[str, Any] = {"download": True} if asked.download else {}
    change |= {"skip_broken": True} if asked.skip_broken else {}
    if asked.data is not None:
        # What was not fitted here is tested on all images of a folder, if that has no test/.
        fitted = asked.recipe is not None or recorded.get("data")
        section = section.at(asked.data)
        change |= {"test_root": None if fitted else asked.data}
    if asked.test_data is not None:
        section = section.at(asked.test_data)
        change |= {"test_root": asked.test_data}
    if section.root is None and section.format not in NOTHING_TO_READ:
        raise NeumetaError("no data folder given; pass --data DIR, or --recipe NAME")
    return resolved(section.model_copy(update=change), own, reporter, by), kind
