"""What a network expects of its images: their size, how they are resized and cut, mean and std.

A network has been trained with images prepared in one way; in another it computes something else.
``own_preprocessing`` finds that way by what is known of the network, a recipe overrides it field by
field, and the complete section goes into whatever is written, so that all commands agree.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from neumeta_cli.checkpoint import Arch, InputSize
from neumeta_cli.data.decoding import picture_in_planes
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.zoo import ZOO

if TYPE_CHECKING:
    from neumeta_cli.data.settings import DataSection

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NAMES = ("mean", "std", "interpolation", "crop_fraction", "crop_mode")  # of DataSection's fields
PREPROCESSING = "preprocessing"  # of a checkpoint's metadata
USUAL = "as is usual for ImageNet"


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an input; without arguments, what neumeta did for every network before.

    Attributes:
        size: height and width of the input.
        mean, std: of each channel, whose values are 0 to 1.
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``.
        crop_fraction: side of the crop over the side that images are resized to before.
        crop_mode: ``center``, ``squash`` or ``border`` as timm has them, or ``cover``.
        source: who says so, in words.

    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    crop_fraction: float = 0.875
    crop_mode: str = "cover"
    source: str = USUAL

    def __call__(self, image: Tensor) -> Tensor:
        """An image (C, h, w) uint8 of any size as (C, *size) uint8."""
        if self.crop_mode == "cover":
            return self._cover(image)
        if self._only_cuts(image):  # which is quicker here, and the same
            return self._as_timm(image)
        from torchvision.transforms.v2 import functional as TF

        return self._as_timm(TF.to_pil_image(image))

    def _only_cuts(self, image: Tensor) -> bool:
        """Whether an image has the size already that timm would resize it to before the cut."""
        sides = [math.floor(side / self.crop_fraction) for side in self.size]
        given = list(image.shape[-2:])
        if self.crop_mode == "squash":
            return given == sides
        return self.crop_mode == "center" and sides == [min(given)] * 2

    def squeezed(self, image: Tensor) -> Tensor:
        """All of an image (C, h, w) uint8, as goes with a mask, which is squeezed likewise."""
        from torchvision.transforms.v2 import functional as TF

        if tuple(image.shape[-2:]) == self.size:
            return image
        made: Tensor = TF.resize(image, list(self.size), self._mode(), antialias=True)
        return made

    def _cover(self, image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional as TF

        given = image.shape[-2:]
        if tuple(given) == self.size:
            return image
        scale = max(s / n for n, s in zip(given, self.size, strict=True))
        larger = scale / self.crop_fraction if scale < 1 else scale
        sides = [max(s, round(n * larger)) for n, s in zip(given, self.size, strict=True)]
        resized = TF.resize(image, sides, self._mode(), antialias=True)
        made: Tensor = TF.center_crop(resized, list(self.size))
        return made

    def _mode(self) -> Any:
        from torchvision.transforms import InterpolationMode

        return InterpolationMode(self.interpolation)

    @cached_property
    def _as_timm(self) -> Callable[[Any], Tensor]:
        """The pipeline of timm up to the tensor, which computes what torchvision's presets do."""
        from timm.data.transforms_factory import create_transform

        made: Any = create_transform(
            self.size,
            interpolation=self.interpolation,
            mean=self.mean,
            crop_pct=self.crop_fraction,
            crop_mode=self.crop_mode,
            normalize=False,
        )
        made.transforms[-1] = _as_tensor  # timm's takes more time
        return made  # type: ignore[no-any-return]

    def overridden(self, given: Mapping[str, Any], by: str) -> "Preprocessing":
        """With the fields that somebody gives, by the names that a recipe has for them."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name in NAMES
            if (value := given.get(name)) is not None
        }
        others = [n.replace("_", " ") for n, value in values.items() if value != getattr(self, n)]
        source = f"{self.source}; {', '.join(others)}: {by}" if others else self.source
        return replace(self, **values, source=by if len(values) == len(NAMES) else source)

    def as_dict(self) -> dict[str, Any]:
        """The fields by the names that a recipe has for them, as plain JSON types."""
        values = {name: getattr(self, name) for name in NAMES}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}

    def describe(self, form: str = "image_folder") -> str:
        """One line on what happens to images of a format of data."""
        from neumeta_cli.data.settings import IN_MEMORY_FORMATS, MASK_FORMATS

        parts = ["×".join(map(str, self.size))]
        if form in MASK_FORMATS:
            parts.append(f"{self.interpolation}, not cut")
        elif form not in IN_MEMORY_FORMATS:
            mode = {"center": "", "cover": " of larger images"}
            cut = mode.get(self.crop_mode, f" ({self.crop_mode})")
            parts.append(f"{self.interpolation}, crop {self.crop_fraction:.4g}{cut}")
        parts += [f"mean {_short(self.mean)}", f"std {_short(self.std)}"]
        return f"preprocessing: {', '.join(parts)} ({self.source})"


def _as_tensor(image: Any) -> Tensor:
    return image if isinstance(image, Tensor) else picture_in_planes(image)


def own_preprocessing(
    arch: Arch,
    input_size: InputSize,
    recorded: Mapping[str, Any] | None = None,
    path: Path | None = None,
) -> Preprocessing:
    """What a network was trained with, as far as it is known.

    Args:
        arch: its architecture; timm, torchvision and our zoo know those of their own.
        input_size: (C, H, W) that it takes.
        recorded: what its file says of it, which goes first; fields may lack.
        path: its file; torchvision has several sets of weights for an architecture, and their
            files' names tell them apart.

    Raises:
        NeumetaError: what the file says makes no sense.

    """
    from neumeta_cli.data.settings import DataSection

    library, _, name = arch.name.partition("/")
    known = {"timm": _of_timm, "torchvision": _of_torchvision, "zoo": _of_zoo}.get(library)
    own = Preprocessing() if known is None else known(name, path)
    own = replace(own, size=input_size[1:])
    if not recorded:
        return own
    given = {name: recorded.get(name) for name in NAMES}
    try:
        checked = DataSection.model_validate(given)
    except ValueError as error:
        raise NeumetaError(f"{path or 'the file'} has a damaged preprocessing: {given}") from error
    return own.overridden(checked.model_dump(), "the file")


def resolved(
    section: "DataSection",
    own: Preprocessing,
    reporter: Reporter | None = None,
    by: str = "the recipe",
) -> "DataSection":
    """A section in which nothing is left open: its own fields, else what the network expects.

    Args:
        section: what is asked for.
        own: of the network.
        reporter: is told of the outcome in one line.
        by: who gives the section's fields, in words.

    """
    size = section.image_size or own.size
    square = (size, size) if isinstance(size, int) else size
    chosen = replace(own, size=square).overridden(section.model_dump(), by)
    (reporter or Silent()).tell(chosen.describe(section.format))
    return section.model_copy(update=chosen.as_dict())


def as_before(section: "DataSection") -> "DataSection":
    """A section from a file that neumeta wrote before it kept these fields."""
    before = Preprocessing().as_dict()
    return section.model_copy(update=before | section.model_dump(include=_given(section)))


def preprocessing_of(section: "DataSection", size: tuple[int, int]) -> Preprocessing:
    """What a section says, and what neumeta did before it where the section says nothing."""
    return Preprocessing(size).overridden(section.model_dump(), "the recipe")


def _given(section: "DataSection") -> set[str]:
    return {name for name in NAMES if getattr(section, name) is not None}


def _of_timm(name: str, path: Path | None) -> Preprocessing:
    import timm
    from timm.data.config import resolve_data_config

    resolve: Any = resolve_data_config  # which has no types, nor has what it takes
    config: Any = timm.get_pretrained_cfg(name, allow_unregistered=True)  # old names have none
    if config is None:
        return Preprocessing()
    found = resolve(pretrained_cfg=config.to_dict())
    return Preprocessing(
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        interpolation=found["interpolation"],
        crop_fraction=float(found["crop_pct"]),
        crop_mode=found["crop_mode"],
        source="timm",
    )


def _of_torchvision(name: str, path: Path | None) -> Preprocessing:
    import torchvision.models as tv_models

    weights = tv_models.get_model_weights(name)
    if len(weights) == 0:
        return Preprocessing()
    named = [w for w in weights if path is not None and w.url.rpartition("/")[2] == path.name]
    chosen = named[0] if named else weights.DEFAULT
    preset = chosen.transforms()
    own = Preprocessing(
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
        source=f"torchvision, {chosen.name}",
    )
    if not hasattr(preset, "crop_size"):  # of segmentation, where nothing is cut
        return own
    fraction = _fraction(preset.crop_size[0], preset.resize_size[0])
    return replace(own, crop_fraction=fraction, crop_mode="center")


def _fraction(crop: int, side: int) -> float:
    """The crop over the side, so that rounding down ``crop / fraction`` gives the side again."""
    fraction = crop / side
    while math.floor(crop / fraction) < side:
        fraction = math.nextafter(fraction, 0)
    return fraction


def _of_zoo(name: str, path: Path | None) -> Preprocessing:
    entry = ZOO[name]
    return Preprocessing(mean=entry.mean, std=entry.std, source="neumeta's network")


def _short(values: tuple[float, ...]) -> str:
    """0.5, or 0.485/0.456/0.406."""
    shown = values[:1] if len(set(values)) == 1 else values
    return "/".join(f"{value:.4g}" for value in shown)
