"""Recipes: everything that a fit depends on, in one YAML file, checked before any data is read."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from neumeta_cli.errors import NeumetaError

PACKAGE = Path(__file__).parent
FOLDERS = (PACKAGE / "recipes", PACKAGE.parent / "recipes")  # in the wheel; in the repository


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Section):
    arch: str = Field(
        description="timm or torchvision name, one of ours, or package.module:factory"
    )
    checkpoint: str | None = Field(
        None, description="weights to start from, relative to this file; --checkpoint overrides it"
    )
    num_classes: int | None = Field(None, ge=1, description="outputs, where not the network's own")


class DataSection(_Section):
    format: Literal["digits", "mnist", "image_folder"] = Field(
        "image_folder",
        description="digits (ships with scikit-learn), mnist (the published files, as torchvision "
        "has them, in MNIST/raw) or image_folder (train/ and test/ or val/)",
    )
    root: str | None = Field(None, description="the folder; --data overrides it")
    image_size: int | None = Field(None, ge=1, description="images are resized and cropped to this")
    mean: list[float] = Field(
        [0.485, 0.456, 0.406], description="subtracted per channel, of 0 to 1"
    )
    std: list[float] = Field([0.229, 0.224, 0.225], description="divided by per channel")
    flip: bool = Field(False, description="random horizontal flips in training")
    crop_padding: int = Field(0, ge=0, description="random crops after padding by so many pixels")

    def at(self, root: str) -> "DataSection":
        """The same way to read a folder; the digits, which have none, become class folders."""
        form = "image_folder" if self.format == "digits" else self.format
        return DataSection(**{**self.model_dump(), "root": root, "format": form})


class PermuteSection(_Section):
    solver: str = Field("2.5-opt", description="2.5-opt, greedy, identity, random or python-tsp")
    seed: int = Field(0, description="of the solver")
    time_limit: float | None = Field(None, gt=0, description="seconds to solve a clique")
    norm: Literal["l1", "l2"] = Field(
        "l1", description="of the difference of two channels within a weight"
    )
    weighting: Literal["none", "equal", "producer"] = Field(
        "none",
        description="none (the paper's: every weight as it is), equal (every weight counts the "
        "same) or producer (only the weight that makes the channels)",
    )


class NormSection(_Section):
    fold: bool = Field(
        True,
        description="fold batch norm into convolutions before the fit; if not, norms in scope use "
        "the statistics of the batch in the fit and those of the calibration images afterwards",
    )
    images: int = Field(
        256, ge=2, description="training images kept in the manifold's file to calibrate norms"
    )
    quality: int | None = Field(
        90, ge=1, le=100, description="of the JPEG that they are kept as; none: as they are"
    )


class InrSection(_Section):
    kind: Literal["mlp", "factorised", "selected", "integral"] = Field(
        "mlp",
        description="mlp (the paper's), factorised (functions of c_in times those of c_out), "
        "selected (the checkpoint's largest channels, changed as more of them are missing) or "
        "integral (the checkpoint's weights, interpolated along all its channels)",
    )
    knots: list[float] = Field(
        [0.25, 0.5, 0.75],
        description="γ at which each change of a selected INR is complete; with none it learns "
        "slices of one network, otherwise the full width stays the checkpoint",
    )
    store: Literal["float32", "float16", "int8"] = Field(
        "float32",
        description="of the INR's parameters in the manifold's file; int8: 8 bits for matrices, "
        "with a scale for each output channel, and float16 for vectors",
    )
    per: Literal["type", "layer", "tensor"] = Field(
        "tensor", description="one network for each of: weights and vectors, layer, tensor"
    )
    hidden: int = Field(256, ge=1, description="width of the MLP")
    layers: int = Field(5, ge=1, description="hidden layers of the MLP")
    frequencies: int = Field(
        16, ge=1, description="of the sinusoidal embedding of channel and layer"
    )
    size_frequencies: int | None = Field(
        None, ge=0, description="the same for sizes; as many as frequencies if not given"
    )
    scale: Literal["fan_in", "checkpoint"] = Field(
        "fan_in",
        description="outputs are divided by C_in; checkpoint also sets each tensor's spread",
    )

    @field_validator("knots")
    @classmethod
    def _ascending(cls, value: list[float]) -> list[float]:
        if any(not 0 < knot < 1 for knot in value) or sorted(set(value)) != value:
            raise ValueError("knots ascend between 0 and 1")
        return value

    @property
    def frequencies_of_sizes(self) -> int:
        """``size_frequencies``, or as many as ``frequencies`` where it is not given."""
        return self.frequencies if self.size_frequencies is None else self.size_frequencies


class NoiseSection(_Section):
    channels: float = Field(
        0.5, ge=0, description="uniform noise on channel coordinates in the fit, ± channel indices"
    )
    sizes: float = Field(0.5, ge=0, description="the same on the size coordinates")
    samples: int = Field(50, ge=1, description="K: perturbed draws averaged into one weight")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the INR's matrix products in these draws"
    )


class LossSection(_Section):
    task: float = Field(1.0, ge=0, description="weight of the task's loss")
    recon: float = Field(1.0, ge=0, description="λ1, of ‖W0‖²·‖W − W0‖² at full width")
    reg: float = Field(1e-4, ge=0, description="λ2, of ‖W‖²")
    distill: float = Field(
        0.0, ge=0, description="of the KL divergence to the checkpoint's outputs"
    )
    temperature: float = Field(2.0, gt=0, description="of that divergence")


class FitSection(_Section):
    epochs: int = Field(200, ge=1, description="passes over the training data")
    batch_size: int = Field(128, ge=1, description="images a step")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's, decayed to 0 along a cosine")
    rising_steps: int = Field(
        0, ge=0, description="steps in which the learning rate rises to its full height first"
    )
    ema: float = Field(0.995, ge=0, lt=1, description="decay per step of the averaged weights")
    gamma: tuple[float, float] = Field(
        (0.0, 0.5), description="range of γ = 1 - width; each step draws one uniformly"
    )
    gamma_power: float = Field(
        1.0, gt=0, description="γ = low + (high - low)·u^power, u uniform; below 1 favours narrow"
    )
    full_width: float = Field(
        0.0, ge=0, le=1, description="share of the steps at width 1 instead of a drawn one"
    )
    anchors: list[float] = Field(
        [], description="γ that every step trains beside the drawn one (the sandwich rule)"
    )
    mixed: float = Field(
        0.0, ge=0, le=1, description="share of the steps in which each clique draws its own γ"
    )
    mixed_gamma: tuple[float, float] = Field((0.0, 0.75), description="range of these")
    update: float = Field(
        0.5, gt=0, le=1, description="share of the tensors in scope that a step trains, at random"
    )
    warmup_steps: int = Field(
        0, ge=0, description="steps on the reconstruction alone, before the task"
    )
    clip: float | None = Field(None, gt=0, description="largest gradient norm")
    views: int = Field(
        0, ge=0, description="augmented copies whose frozen features are computed once; 0: none"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of matrix products and convolutions in the fit"
    )
    save_steps: int = Field(
        500, ge=1, description="steps between two saves of the state; an epoch's end saves too"
    )
    limit: int | None = Field(None, ge=1, description="use only so many training images")

    @field_validator("gamma", "mixed_gamma")
    @classmethod
    def _range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] <= value[1] < 1:
            raise ValueError("a range of γ goes from low to high, both below 1")
        return value

    @field_validator("anchors")
    @classmethod
    def _below_one(cls, value: list[float]) -> list[float]:
        if any(gamma >= 1 for gamma in value):
            raise ValueError("γ = 1 - width lies below 1")
        return value


class EvalSection(_Section):
    gammas: list[float] = Field(
        [0.0, 0.25, 0.5, 0.75], description="compression ratios in the table at the end"
    )
    watch: int = Field(
        500, ge=0, description="test images on which the accuracy is shown after each epoch"
    )
    watch_gammas: list[float] = Field([0.0, 0.5], description="and the compression ratios")


class CompareSection(_Section):
    methods: list[str] = Field(
        ["neumeta", "individual", "us_net", "integral", "l1", "l1_bn"],
        description="what neumeta compare runs; all: every method",
    )
    seeds: int = Field(1, ge=1, description="runs of each method, with the seed and those after it")
    vary: dict[str, list[Any]] = Field(
        {},
        description="an ablation: recipe fields and their values; NeuMeta is run with every "
        "combination in place of the methods",
    )
    layer: str | None = Field(
        None, description="whose outputs CKA compares; the last linear layer's inputs if not given"
    )
    images: int = Field(1000, ge=2, description="test images for CKA and KL")


class TrainSection(_Section):
    epochs: int = Field(30, ge=1, description="passes over the training data")
    batch_size: int = Field(128, ge=1, description="images a step")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's, decayed to 0 along a cosine")


class Recipe(_Section):
    """One experiment: a network, its data, a scope, and how the manifold is fitted."""

    name: str = Field(description="names the run folder")
    description: str = Field("", description="one line")
    model: ModelSection
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
    seed: int = Field(0, description="of everything random in the fit")

    def as_yaml(self) -> str:
        """The recipe with every field, as it can be read again."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def recipe_files() -> dict[str, Path]:
    """Every recipe that comes with neumeta, by name."""
    return {p.stem: p for folder in FOLDERS for p in sorted(folder.glob("*.yaml"))}


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
        beside = (path.parent / recipe.model.checkpoint).resolve()
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
        if first["type"] == "extra_forbidden":
            raise NeumetaError(f"{source}: {unknown_field(where)}") from error
        given = "" if first["type"] == "missing" else f", not {first['input']!r}"
        raise NeumetaError(
            f"{source}: {where}: {first['msg'].removeprefix('Value error, ')}{given}"
        ) from error


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
        content = content.setdefault(section, {})
    try:
        content[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise NeumetaError(f"--set {override}: {text!r} is no value") from error
