"""The data of a task, and how they are read."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from neumeta_cli.settings import Section
from neumeta_cli.tasks.formats import FORMATS

MASK_FORMATS = tuple(name for name, form in FORMATS.items() if form.labels == "mask")

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[tuple(FORMATS)]


class DataSection(Section):
    format: FormatName = Field(
        "image_folder",
        description="; ".join(f"{name} ({form.about})" for name, form in FORMATS.items()),
    )
    root: str | None = Field(None, description="folder of the data; --data overrides it")
    download: bool = Field(
        False,
        description="download the data into the folder, if torchvision can; same as --download",
    )
    image_size: Annotated[int, Field(ge=1)] | tuple[int, int] | None = Field(
        None,
        description="images are resized to this size, or to this height and width; if not given, "
        "to the network's input size",
    )
    classes: int | None = Field(None, ge=2, description="number of classes in masks")
    ignore: int | None = Field(
        None, ge=0, le=255, description="class number of mask pixels that do not count"
    )
    mean: list[float] = Field(
        [0.485, 0.456, 0.406], description="subtracted from each channel, whose values are 0 to 1"
    )
    std: list[float] = Field([0.229, 0.224, 0.225], description="divides each channel after that")
    flip: bool = Field(False, description="random horizontal flips in training")
    crop_padding: int = Field(
        0, ge=0, description="random crops after padding by this number of pixels"
    )
    crop_size: tuple[int, int] | None = Field(
        None,
        description="height and width of random crops in training; if not given, the whole image",
    )
    resized_crop: tuple[float, float] | None = Field(
        None,
        description="random crops of a fraction of the image's area (lowest, highest), resized to "
        "crop_size",
    )
    colour_jitter: float = Field(
        0.0,
        ge=0,
        le=1,
        description="brightness, contrast and saturation change by up to ± this fraction",
    )
    blur: float = Field(0.0, ge=0, le=1, description="fraction of images that are blurred")

    @field_validator("image_size", "crop_size")
    @classmethod
    def _positive(cls, value: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        if isinstance(value, tuple) and min(value) < 1:
            raise ValueError("sizes are positive")
        return value

    @field_validator("resized_crop")
    @classmethod
    def _shares(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 < value[0] <= value[1] <= 1:
            raise ValueError("shares of the area go from low to high, above 0 and up to 1")
        return value

    def at(self, root: str) -> "DataSection":
        """The same way to read a folder; the digits, which have none, become class folders."""
        form = "image_folder" if self.format == "digits" else self.format
        return DataSection(**{**self.model_dump(), "root": root, "format": form})
