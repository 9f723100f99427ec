"""A recipe: the sections of all stages, and which of their fields go together."""

import re
from typing import Any

import yaml
from pydantic import Field, field_validator, model_validator

from neumeta_cli.checkpoint.settings import ModelSection
from neumeta_cli.data import FORMATS
from neumeta_cli.data.settings import MASK_FORMATS, DataSection
from neumeta_cli.distill.settings import FitSection, LossSection
from neumeta_cli.manifold import KINDS, AnyInrSettings, inr_settings
from neumeta_cli.manifold.settings import NoiseSection, NormSection
from neumeta_cli.permute.settings import PermuteSection
from neumeta_cli.recipe.tables import CompareSection, EvalSection
from neumeta_cli.settings import Section
from neumeta_cli.tasks import TASKS
from neumeta_cli.training.settings import TrainSection


class Recipe(Section):
    """One experiment: a network, its data, a scope, and how the manifold is fitted.

    What is not said has a default; fields that do not go together are refused::

        >>> model = {"arch": "lenet_digits", "input_size": [1, 8, 8]}
        >>> recipe = Recipe(name="mine", model=model, data={"format": "digits"}, fit={"epochs": 3})
        >>> recipe.fit.epochs, recipe.task, recipe.eval.gammas[0]
        (3, 'classification', 0.0)
        >>> Recipe(name="mine", model=model, data={"format": "voc"})
        Traceback (most recent call last):
        pydantic_core._pydantic_core.ValidationError: 1 validation error for Recipe
          Value error, data.format: voc has no class for each image, which classification needs ...
    """

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
        "all", description="all, paper (inner channels of the last block), or patterns of cliques"
    )
    permute: PermuteSection = PermuteSection()
    norm: NormSection = NormSection()
    inr: AnyInrSettings = inr_settings()
    noise: NoiseSection = NoiseSection()
    loss: LossSection = LossSection()
    fit: FitSection = FitSection()
    train: TrainSection = TrainSection()
    eval: EvalSection = EvalSection()
    compare: CompareSection = CompareSection()
    seed: int = Field(0, description="random seed of the fit")

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, given: Any) -> Any:
        """Read files of version 0.1, where the rates of knots stood beside the other rates."""
        if not isinstance(given, dict) or "knot_rates" not in (given.get("fit") or {}):
            return given
        fit = dict(given["fit"])
        inr, rates = dict(given.get("inr") or {}), fit.pop("knot_rates")
        return given | {"fit": fit, "inr": inr | ({"knot_rates": rates} if rates else {})}

    @field_validator("task")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in TASKS and not re.fullmatch(r"\w+(\.\w+)*:\w+", value):
            raise ValueError(f"a task is {', '.join(TASKS)} or package.module:Class")
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
        if self.task == "classification" and FORMATS[self.data.format].labels != "class":
            raise ValueError(
                f"data.format: {self.data.format} has no class for each image, which "
                "classification needs"
            )
        if self.loss.hint and (not self.inr.chooses or self.fit.views):
            kinds = " or ".join(name for name, inr in KINDS.items() if inr.settings_type.chooses)
            raise ValueError(f"loss.hint needs inr.kind: {kinds}, and fit.views: 0")
        if len(self.fit.anchor_shares) not in (0, len(self.fit.anchors)):
            raise ValueError(
                f"fit.anchor_shares: one for each of the {len(self.fit.anchors)} fit.anchors, or []"
            )
        return self

    def as_yaml(self) -> str:
        """The recipe with every field, as it can be read again."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
