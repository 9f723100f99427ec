"""The fit, its losses and what is watched of it.

``FitRecipe`` is what a fit takes of a recipe: the recipe composes the sections of all stages, so
no stage before it can name the recipe's own type.
"""

from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, field_validator

from neumeta_cli.checkpoint.settings import ModelSection
from neumeta_cli.manifold import InrSettings
from neumeta_cli.manifold.settings import NoiseSection, NormSection
from neumeta_cli.resize.depth import MOST_DEPTH
from neumeta_cli.settings import Section


class LossSection(Section):
    task: float = Field(1.0, ge=0, description="weight of the task's loss")
    recon: float = Field(0.0, ge=0, description="λ1, weight of ‖W0‖²·‖W − W0‖² at full width")
    reg: float = Field(0.0, ge=0, description="λ2, weight of ‖W‖²")
    distill: float = Field(
        1.0, ge=0, description="weight of the KL divergence from the checkpoint's outputs"
    )
    temperature: float = Field(2.0, gt=0, description="temperature of that divergence")
    hint: float = Field(
        0.0,
        ge=0,
        description="weight of the distance between features and the checkpoint's for the same "
        "channels, where layers read them, as log(1 + squares over squares); decays with the "
        "learning rate; for a selected INR",
    )


class FitSection(Section):
    epochs: int = Field(200, ge=1, description="passes over the training data")
    batch_size: int = Field(128, ge=1, description="images in each step")
    accumulate: int = Field(
        1,
        ge=1,
        description="parts of a batch that are computed one after another, their gradients added "
        "up: less memory, the same step but for the statistics of batch norms",
    )
    learning_rate: float = Field(
        1e-3, gt=0, description="Adam's learning rate, decayed to 0 along a cosine"
    )
    rising_steps: int = Field(
        0,
        ge=0,
        description="first steps, at most a tenth of all, in which the learning rate rises to its "
        "full value",
    )
    ema: float = Field(0.995, ge=0, lt=1, description="decay per step of the averaged weights")
    gamma: tuple[float, float] = Field(
        (0.0, 0.5), description="range of γ = 1 - width; each step draws one uniformly"
    )
    gamma_power: float = Field(
        1.0,
        gt=0,
        description="γ = low + (high - low)·u^power, u uniform; below 1 favours narrow networks",
    )
    anchors: list[float] = Field(
        [0.25, 0.5],
        description="values of γ that steps train beside the random one (the sandwich rule)",
    )
    anchor_shares: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [], description="fraction of the steps in which each anchor is trained; empty: all steps"
    )
    anchor_spread: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="how far from each anchor a step's γ may lie, up to the largest anchor, one of "
        "17 places in every second step on average; 0: anchors alone, which makes widths between "
        "two of them worse than their neighbours",
    )
    mixed: float = Field(
        0.5,
        ge=0,
        le=1,
        description="fraction of the steps in which each clique has a γ of its own, from a pool "
        "of 200 such networks",
    )
    mixed_gamma: tuple[float, float] = Field(
        (0.0, 0.8),
        description="range of these; at least one γ lies within fit.gamma where the ranges overlap",
    )
    mixed_power: float = Field(
        0.3, gt=0, description="the same as gamma_power, for these; below 1 favours narrow networks"
    )
    drawn_weight: float = Field(
        0.2,
        ge=0,
        description="weight of the random network's loss relative to an anchor's; 0: there is none",
    )
    depths: tuple[float, float] | None = Field(
        None,
        description="range of depth, the blocks of each run over the checkpoint's, of one more "
        "network that each step trains; null: depth is not trained",
    )
    update: float = Field(
        1.0,
        gt=0,
        le=1,
        description="fraction of the tensors in scope that each step trains, chosen at random",
    )
    warmup_steps: int = Field(
        0, ge=0, description="first steps, which train the reconstruction only"
    )
    clip: float | None = Field(
        None, gt=0, description="largest norm of the gradient; larger ones are scaled down"
    )
    start_images: int = Field(
        256,
        ge=0,
        description="training images on which the checkpoint's features are looked at before the "
        "first step, so that a selected INR begins with missing channels rebuilt from those that "
        "are left; 0: it begins without them",
    )
    views: int = Field(
        0, ge=0, description="augmented copies whose frozen features are computed once; 0: none"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="number format of matrix products and convolutions in the fit; auto: "
        "whichever is faster for this network on this machine, tried at the start",
    )
    save_steps: int = Field(
        500, ge=1, description="steps between two saves of the state; an epoch's end saves too"
    )
    limit: int | None = Field(
        None, ge=1, description="number of training images to use; all if not given"
    )

    @field_validator("gamma", "mixed_gamma")
    @classmethod
    def _range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] <= value[1] < 1:
            raise ValueError("a range of γ goes from low to high, both below 1")
        return value

    @field_validator("depths")
    @classmethod
    def _range_of_depth(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 < value[0] <= value[1] <= MOST_DEPTH:
            raise ValueError(
                f"a range of depth goes from low to high, above 0 and at most to {MOST_DEPTH}"
            )
        if value is not None and value[0] > 1:
            raise ValueError("a range of depth begins at 1 or below, for 1 is the checkpoint")
        return value

    @field_validator("anchors")
    @classmethod
    def _below_one(cls, value: list[float]) -> list[float]:
        if any(gamma >= 1 for gamma in value):
            raise ValueError("γ = 1 - width lies below 1")
        return value


class WatchSection(Section):
    watch: int = Field(
        500, ge=0, description="test images on which the accuracy is shown after each epoch"
    )
    watch_gammas: list[float] = Field(
        [0.0, 0.5], description="compression ratios of the networks that are watched"
    )


class FitRecipe(Protocol):
    """What a fit takes of a recipe; ``neumeta_cli.recipe.Recipe`` has all of it."""

    @property
    def model(self) -> ModelSection: ...

    @property
    def scope(self) -> str | list[str]: ...

    @property
    def norm(self) -> NormSection: ...

    @property
    def inr(self) -> InrSettings: ...

    @property
    def noise(self) -> NoiseSection: ...

    @property
    def loss(self) -> LossSection: ...

    @property
    def fit(self) -> FitSection: ...

    @property
    def eval(self) -> WatchSection: ...

    @property
    def seed(self) -> int: ...

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Every field as plain types, which a manifold's file keeps."""
