"""Which network a recipe is about."""

from typing import Any, Literal

from pydantic import Field, field_validator

from neumeta_cli.settings import Section


class ModelSection(Section):
    arch: str = Field(
        description="timm or torchvision name, one of ours, or package.module:factory"
    )
    checkpoint: str | None = Field(
        None, description="weights to start from, relative to this file; --checkpoint overrides it"
    )
    weights_key: str | None = Field(
        None,
        description="which weights in that file, if it has several: their key, such as "
        "state_dict_ema, or the prefix of their names; --weights-key overrides it",
    )
    num_classes: int | None = Field(
        None, ge=1, description="number of classes, if not the network's own"
    )
    kwargs: dict[str, Any] = Field(
        {}, description="other arguments to build the architecture with, such as img_size: 32"
    )
    heads: Literal["width", "count", "both"] = Field(
        "width",
        description="how a width changes attention heads: width, the channels inside each head; "
        "count, the number of heads; or both",
    )
    input_size: tuple[int, int, int] | None = Field(
        None, description="channels, height and width, if not the network's usual ones"
    )

    @field_validator("input_size")
    @classmethod
    def _positive(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and min(value) < 1:
            raise ValueError("sizes are positive")
        return value
