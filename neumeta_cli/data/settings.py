"""The data of a task, and how they are read."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from neumeta_cli.data.formats import FORMATS
from neumeta_cli.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from neumeta_cli.settings import Section

MASK_FORMATS = tuple(name for name, form in FORMATS.items() if form.labels == "mask")
IN_MEMORY_FORMATS = ("digits", "mnist", "cifar10", "cifar100", "own")  # which are never resized
CropMode = Literal["center", "squash", "border", "cover"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[tuple(FORMATS)]


class DataSection(Section):
    format: FormatName = Field(
        "image_folder",
        description="; ".join(f"{name} ({form.about})" for name, form in FORMATS.items()),
    )
    reader: str = Field(
        "",
        description="of format timm: the set's name as timm.data.create_dataset takes it, such as "
        "hfds/cifar10, wds/mine or torch/cifar100; empty: class folders, or a tar file of them",
    )
    root: str | None = Field(None, description="folder of the data; --data overrides it")
    test_root: str | None = Field(
        None,
        description="folder of other images for testing; those of data.root are then for training "
        "alone; --test-data overrides it",
    )
    test_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="fraction of the images that is for testing, by a hash of their names, where "
        "the folder has no train/ and test/",
    )
    labels: bool = Field(
        True, description="false: images from any folders, whose names are no classes"
    )
    class_order: Literal["text", "number"] = Field(
        "text", description="how the names of class folders are sorted: 0, 1, 10, 2 or 0, 1, 2, 10"
    )
    skip_broken: bool = Field(
        False, description="leave out files that cannot be read as images; same as --skip-broken"
    )
    download: bool = Field(
        False,
        description="download the data into the folder, if torchvision can; same as --download",
    )
    in_memory: int = Field(
        4 << 30,
        ge=0,
        description="bytes up to which images are decoded once and held in memory, at the "
        "network's size; larger sets are read from their files in every epoch, and cut and "
        "augmented from the originals; 0: all are",
    )
    workers: int | None = Field(
        None,
        ge=0,
        description="processes that read files while the network computes; if not given, one for "
        "each core, up to 8; 0: none. Results do not depend on it",
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
    mean: list[float] | None = Field(
        None,
        description="subtracted from each channel, whose values are 0 to 1; if not given, the "
        "network's own, and so are the next four",
    )
    std: list[float] | None = Field(None, description="divides each channel after that")
    interpolation: Interpolation | None = Field(None, description="how images are resized")
    crop_fraction: float | None = Field(
        None,
        gt=0,
        le=2,
        description="side of the crop over the side that images are resized to before",
    )
    crop_mode: CropMode | None = Field(
        None,
        description="center (the short side is resized, the rest cut off), squash (both sides), "
        "border (the long side, and a border added), as timm has them, or cover (center, but "
        "images of the right size stay as they are and smaller ones are enlarged to it)",
    )
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

    @property
    def normalisation(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel; ImageNet's where none are given."""
        return self.mean or list(IMAGENET_MEAN), self.std or list(IMAGENET_STD)

    def at(self, root: str) -> "DataSection":
        """The same way to read a folder; the digits, which have none, become class folders."""
        form = "image_folder" if self.format == "digits" else self.format
        return DataSection(**{**self.model_dump(), "root": root, "format": form})
