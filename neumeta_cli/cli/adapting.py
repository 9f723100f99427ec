"""Recipes and data as a command line asks for them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neumeta_cli.checkpoint import Arch, Checkpoint, check_hooks, read_weights, write_text
from neumeta_cli.cli.console import note
from neumeta_cli.cli.sizing import at_size_of
from neumeta_cli.data import NOTHING_TO_READ, find_images
from neumeta_cli.data.preprocessing import as_before
from neumeta_cli.data.settings import DataSection
from neumeta_cli.errors import NeumetaError
from neumeta_cli.pipeline import recipe_arch
from neumeta_cli.recipe import Recipe, auto_recipe, load_recipe, parse_recipe
from neumeta_cli.recipe.load import override_all
from neumeta_cli.resize import open_frame
from neumeta_cli.tasks import Task, task_class


@dataclass(frozen=True)
class TestImages:
    """What a command line says of images beside their folder.

    Attributes:
        folder: of images for testing alone.
        skip_broken: leave out what cannot be read.

    """

    folder: str | None = None
    skip_broken: bool = False

    def put(self, section: DataSection) -> DataSection:
        """A section with that in place of its own fields."""
        change: dict[str, Any] = {"skip_broken": True} if self.skip_broken else {}
        change |= {} if self.folder is None else {"test_root": self.folder}
        return section.model_copy(update=change)


ALL_READABLE = TestImages()


def adapted(
    name: str,
    overrides: list[str] | None,
    checkpoint: Path | None = None,
    data: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    download: bool = False,
    weights_key: str | None = None,
    test: TestImages = ALL_READABLE,
    of_a_run: bool = False,
) -> Recipe:
    """A recipe with what the command line says in place of its own fields.

    With ``of_a_run`` it is from a run's folder, where all was settled when the run began.
    """
    recipe = load_recipe(name, _said(overrides, epochs, seed, download))
    section = as_before(recipe.data) if of_a_run else recipe.data
    section = test.put(section if data is None else section.at(data))
    said = {
        # A link stays one, as what it points to may have no ending.
        "checkpoint": None if checkpoint is None else str(checkpoint.absolute()),
        "weights_key": weights_key,
    }
    model = recipe.model.model_copy(update={k: v for k, v in said.items() if v is not None})
    return recipe.model_copy(update={"model": model, "data": section})


def automatic(
    checkpoint: Checkpoint,
    overrides: list[str] | None,
    data: str | None,
    epochs: int | None = None,
    seed: int | None = None,
    download: bool = False,
    save: Path | None = None,
    weights_key: str | None = None,
    test: TestImages = ALL_READABLE,
) -> Recipe:
    """The automatic recipe for a network and a folder of images, told and perhaps kept in a file.

    Raises:
        NeumetaError: no folder is given, it does not hold images, or the file cannot be written.

    """
    check_hooks(checkpoint.model, f"{checkpoint.arch.name}: ")
    said = _said(overrides, epochs, seed, download)
    asked: dict[str, Any] = {}
    override_all(asked, said)
    fields = {"root": data, **asked.get("data", {})}
    model = {"arch": checkpoint.arch.name, **asked.get("model", {})}
    stated = parse_recipe({"name": "auto", "model": model, "data": fields}, "--set")
    section, size = test.put(stated.data), stated.model.input_size
    checkpoint = checkpoint if size is None else replace(checkpoint, input_size=size)
    images = find_images(section, "train", checkpoint.input_size)
    sized: dict[str, str] = {}
    if size is not None:
        frame = open_frame(checkpoint.model, checkpoint.input_size)
    else:
        checkpoint, frame, sized = at_size_of(images, checkpoint, section)
    root = sized | ({} if data is None else {"root": str(Path(data).absolute())})
    root |= {} if test.folder is None else {"test_root": str(Path(test.folder).absolute())}
    said += [] if weights_key is None else [f"model.weights_key={weights_key}"]
    said += ["data.skip_broken=true"] if test.skip_broken else []
    found = auto_recipe(checkpoint, frame, len(images), root, images.labelled, said)
    note("automatic recipe, for the whole network:")
    for reason in found.reasons:
        note(f"  {reason}")
    if save is not None:
        write_text(save, found.as_yaml())
        note(f"written: {save}; use it with --recipe {save}")
    return found.recipe


def arch_of(recipe: Recipe, checkpoint: Path, weights_key: str | None) -> Arch | None:
    """The user's own network that a recipe names, for a file that says none; else None.

    A library's network is found from the file, as the recipe may be there for its data alone.
    """
    arch = recipe_arch(recipe)
    if ":" not in arch.name or "arch" in read_weights(checkpoint, weights_key).metadata:
        return None
    return arch


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
    asked: Asked, recorded: Mapping[str, Any], trust_code: bool
) -> tuple[DataSection, type[Task], str]:
    """How to read the data: the recipe named, else what a file recorded.

    Args:
        asked: the command line.
        recorded: with the keys ``data`` and ``task`` of a recipe, if the file has them.
        trust_code: import the task that a file names, if it is a user's own.

    Returns:
        A section, in which the network's preprocessing may be left open; the task; and who gives
        the section's fields, in words.

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
    return section.model_copy(update=change), kind, by
