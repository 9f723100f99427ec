"""What surrounds an INR: norms and the noise on coordinates."""

from typing import Literal

from pydantic import Field

from neumeta_cli.settings import Section


class NormSection(Section):
    fold: bool = Field(
        False,
        description="fold batch norm into convolutions before the fit; if not, norms in scope use "
        "the statistics of the batch in the fit and those of the calibration images afterwards",
    )
    images: int = Field(
        256, ge=2, description="training images kept in the manifold's file to calibrate norms"
    )
    quality: int | None = Field(
        90,
        ge=1,
        le=100,
        description="quality of the JPEG that they are kept as; none: no JPEG, all bits",
    )


class NoiseSection(Section):
    channels: float = Field(
        0.0,
        ge=0,
        description="uniform noise on channel coordinates in the fit, in ± channel indices",
    )
    sizes: float = Field(0.0, ge=0, description="the same on the size coordinates")
    samples: int = Field(
        1,
        ge=1,
        le=10_000,
        description="K, the number of noisy samples that are averaged into one weight",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="number format of the INR's matrix products in these samples; auto: bfloat16 "
        "for noisy samples of an mlp if the processor computes in it (its rounding is far below "
        "the "
        "noise that remains after K samples), else float32",
    )
