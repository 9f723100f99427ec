"""The settings of an INR."""

from typing import Literal

from pydantic import Field, field_validator

from neumeta_cli.settings import Section


class InrSection(Section):
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
        description="number format of the INR's parameters in the file; int8: 8 bits for matrices, "
        "with a scale for each output channel, and float16 for vectors",
    )
    per: Literal["type", "layer", "tensor"] = Field(
        "tensor",
        description="what gets a network of its own: weights and vectors (type), each layer, or "
        "each tensor",
    )
    hidden: int = Field(256, ge=1, description="width of the MLP")
    layers: int = Field(5, ge=1, description="hidden layers of the MLP")
    frequencies: int = Field(
        16, ge=1, description="number of frequencies that embed channel and layer as sinusoids"
    )
    size_frequencies: int | None = Field(
        None, ge=0, description="the same for sizes; if not given, as many as frequencies"
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
