"""Recipes: everything that a fit depends on, in one YAML file, checked before any data is read."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from neumeta_cli.errors import NeumetaError
from neumeta_cli.sections import (
    CompareSection,
    DataSection,
    EvalSection,
    FitSection,
    InrSection,
    LossSection,
    ModelSection,
    NoiseSection,
    NormSection,
    PermuteSection,
    Section,
    TrainSection,
)
from neumeta_cli.shipped import recipe_files

TASK_NAMES = ("classification", "segmentation", "generation")
MASK_FORMATS = ("mask_folder", "voc")


class Recipe(Section):
    """One experiment: a network, its data, a scope, and how the manifold is fitted."""

    name: str = Field(description="names the run folder")
    description: str = Field("", description="one line")
    model: ModelSection
    task: str = Field(
        "classification",
        description="classification, segmentation, generation or a class of your own, "
        "package.module:Class",
    )
    data: DataSection = DataSection()
    scope: str | list[str] = Field(
        "paper", description="all, paper (inner channels of the last block), or patterns of cliques"
    )
    permute: PermuteSection = PermuteSection()
    norm: NormSection = NormSection()
    inr: InrSection = InrSection()
    noise: NoiseSection = NoiseSection()
    loss: LossSection = LossSection()
    fit: FitSection = FitSection()
    train: TrainSection = TrainSection()
    eval: EvalSection = EvalSection()
    compare: CompareSection = CompareSection()
    seed: int = Field(0, description="random seed of the fit")

    @field_validator("task")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in TASK_NAMES and not re.fullmatch(r"\w+(\.\w+)*:\w+", value):
            raise ValueError(f"a task is {', '.join(TASK_NAMES)} or package.module:Class")
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> "Recipe":
        masks = self.data.format in MASK_FORMATS
        if self.task == "segmentation" and not masks:
            raise ValueError(
                f"data.format: segmentation reads {' or '.join(MASK_FORMATS)}, "
                f"not {self.data.format}"
            )
        if self.task == "segmentation" and self.data.classes is None:
            raise ValueError("data.classes: segmentation needs the number of classes in masks")
        if self.data.format == "own" and ":" not in self.task:
            raise ValueError("data.format: own is for a task of your own, package.module:Class")
        if self.task == "classification" and (masks or self.data.format == "celeba"):
            raise ValueError(
                f"data.format: {self.data.format} has no class for each image, which "
                "classification needs"
            )
        if self.fit.knot_rates and len(self.fit.knot_rates) != len(self.inr.knots):
            raise ValueError(
                f"fit.knot_rates: one for each of the {len(self.inr.knots)} inr.knots, or []"
            )
        if self.loss.hint and (self.inr.kind != "selected" or self.fit.views):
            raise ValueError("loss.hint needs inr.kind: selected, and fit.views: 0")
        if len(self.fit.anchor_shares) not in (0, len(self.fit.anchors)):
            raise ValueError(
                f"fit.anchor_shares: one for each of the {len(self.fit.anchors)} fit.anchors, or []"
            )
        return self

    def as_yaml(self) -> str:
        """The recipe with every field, as it can be read again."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name or path and apply ``section.field=value`` overrides.

    Raises:
        NeumetaError: no such recipe, a field that does not exist, or a value that it refuses.

    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        files = recipe_files()
        if name not in files:
            close = difflib.get_close_matches(name, files, n=3) or sorted(files)
            raise NeumetaError(
                f"no recipe {name!r}; did you mean {', '.join(close)}? See: neumeta recipes list"
            )
        path = files[name]
    if not path.is_file():
        raise NeumetaError(f"no such recipe file: {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise NeumetaError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise NeumetaError(f"{path} is not a recipe: it should map sections to fields")
    for override in overrides:
        _override(content, override)
    recipe = parse_recipe(content, str(path))
    if recipe.model.checkpoint is not None:
        # A link stays one, as what it points to may have no ending (Hugging Face's cache, DVC).
        beside = (path.parent / recipe.model.checkpoint).absolute()
        recipe = recipe.model_copy(
            update={"model": recipe.model.model_copy(update={"checkpoint": str(beside)})}
        )
    return recipe


def parse_recipe(content: dict[str, Any], source: str) -> Recipe:
    """Validate a recipe.

    Raises:
        NeumetaError: names the first wrong field, what was given and what is allowed.

    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        if not where:  # of fields that do not go together; it names them
            raise NeumetaError(f"{source}: {problem}") from error
        if first["type"] == "extra_forbidden":
            raise NeumetaError(f"{source}: {unknown_field(where)}") from error
        given = "" if first["type"] == "missing" else f", not {first['input']!r}"
        raise NeumetaError(f"{source}: {where}: {problem}{given}") from error


def field_paths(section: type[BaseModel] = Recipe, prefix: str = "") -> dict[str, str]:
    """Every field of the schema as ``section.field``, with its description."""
    paths: dict[str, str] = {}
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            paths |= field_paths(kind, f"{prefix}{name}.")
        else:
            paths[prefix + name] = info.description or ""
    return paths


def unknown_field(path: str) -> str:
    """Say that a field does not exist, and which ones come close."""
    paths = list(field_paths())
    close = difflib.get_close_matches(path, paths, n=2) or [
        p for p in paths if p.rpartition(".")[2] == path.rpartition(".")[2]
    ]
    hint = f"; did you mean {' or '.join(close)}?" if close else "; see: neumeta recipes show"
    return f"no field {path!r}{hint}"


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise NeumetaError(f"--set {override}: write it as section.field=value")
    if key not in field_paths():
        raise NeumetaError(f"--set {override}: {unknown_field(key)}")
    *sections, last = key.split(".")
    for section in sections:
        content[section] = {} if content.get(section) is None else content[section]
        content = content[section]
        if not isinstance(content, dict):
            raise NeumetaError(f"--set {override}: {section} is no section with fields")
    try:
        content[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise NeumetaError(f"--set {override}: {text!r} is no value") from error
