"""Settings of the INR that begins with the checkpoint's channels."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from neumeta_cli.manifold.inr.base import STORED, InrSettings, Store


class SelectedSettings(InrSettings):
    """Settings of an INR that selects channels."""

    chooses: ClassVar[bool] = True
    summary: ClassVar[str] = (
        "the checkpoint's largest channels, changed as more of them are missing"
    )

    kind: Literal["selected"] = "selected"
    store: Store = Field("int8", description=STORED)  # else it is larger than its checkpoint
    knots: list[float] = Field(
        [0.25, 0.5, 0.75],
        description="γ at which each change is complete; with none it learns slices of one "
        "network, otherwise the full width stays the checkpoint",
    )
    knot_rates: list[Annotated[float, Field(gt=0)]] = Field(
        [],
        description="factors of the learning rate for the change at each of the knots; empty: "
        "all 1",
    )

    order: Literal["norm", "energy"] = Field(
        "norm",
        description="which channels narrower networks begin with: norm, those of largest ℓ1 norm "
        "of their weights; energy, those that give most to the layers that read them, E[x²]·‖W‖² "
        "on fit.start_images training images (with none: norm)",
    )
    depth_knots: list[float] = Field(
        [0.5, 1.0],
        description="the same for blocks: shares of a run's blocks that may go at which each "
        "change is complete; with none, shorter networks have the weights of longer ones",
    )

    @field_validator("knots")
    @classmethod
    def _ascending(cls, value: list[float]) -> list[float]:
        if any(not 0 < knot < 1 for knot in value) or sorted(set(value)) != value:
            raise ValueError("knots ascend between 0 and 1")
        return value

    @field_validator("depth_knots")
    @classmethod
    def _ascending_to_one(cls, value: list[float]) -> list[float]:
        if any(not 0 < knot <= 1 for knot in value) or sorted(set(value)) != value:
            raise ValueError("knots of depth ascend, above 0 and at most to 1")
        return value

    @model_validator(mode="after")
    def _one_for_each(self) -> Self:
        if self.knot_rates and len(self.knot_rates) != len(self.knots):
            raise ValueError(f"knot_rates: one for each of the {len(self.knots)} knots, or []")
        return self

    @property
    def pieces(self) -> int:
        return len(self.knots) + len(self.depth_knots)
