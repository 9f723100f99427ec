"""Ordinary training."""

from typing import Literal

from pydantic import Field

from neumeta_cli.settings import Section


class TrainSection(Section):
    epochs: int = Field(30, ge=1, description="passes over the training data")
    batch_size: int = Field(128, ge=1, description="images in each step")
    learning_rate: float = Field(
        1e-3, gt=0, description="Adam's learning rate, decayed to 0 along a cosine"
    )
    weight_decay: float = Field(
        0.0, ge=0, description="Adam's decay of the weights, apart from the gradient (AdamW)"
    )
    mix: Literal["none", "mixup", "cutmix"] = Field(
        "none",
        description="how the images of a batch are mixed in pairs, and their labels with them, for "
        "networks that learn few images by heart (torchvision's MixUp and CutMix, alpha 1); "
        "classification only",
    )
    mix_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="fraction of the steps, the first ones, that mix; the last ones see images as "
        "they are, with the rate low",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="number format of matrix products and convolutions; auto: the same as in the "
        "fit",
    )
    save_steps: int = Field(
        500, ge=1, description="steps between two saves of the state; an epoch's end saves too"
    )
