"""From one file to the pixels of an image or the class numbers of a mask."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Union

import numpy as np
import torch
from torch import Tensor

from neumeta_cli.errors import NeumetaError

if TYPE_CHECKING:
    from PIL.Image import Image

Loaded = Union[bytes, "Image"]  # what lies in a file, or what a library made of it
DEEP = ("I", "I;16", "I;16B", "I;16L")  # Pillow's names for grey images of more than 8 bits
HIGHEST = {8: 0xFF, 16: 0xFFFF}  # value of a channel by its bits
SIXTEEN = ("PPM", "PNG")  # formats of 16 bits that Pillow gives as 32
STEPS = {
    "L;2": 0xFF // 0b11,
    "L;4": 0xFF // 0b1111,
}  # by which Pillow multiplies values of few bits
SKIP = "leave out what is broken with --skip-broken (data.skip_broken)"


class Record(Protocol):
    """An image that is no file of its own.

    Attributes:
        name: that tells it from others of the set.
        size: in bytes, 0 where nobody knows.

    """

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    def load(self) -> Loaded:
        """What there is of it."""


File = Path | Record


def described(file: File) -> str:
    """Name and size, by which a set of files is known again."""
    if isinstance(file, Path):
        return f"{file.parent.name}/{file.name} {file.stat().st_size}"
    return f"{file.name} {file.size}"


def read_image(file: File, grey: bool) -> Tensor:
    """The pixels of a file, of whatever kind and depth, with 8 bits a channel.

    Channels of 16 bits lose their lower half; transparency is left out.

    Args:
        file: JPEG, PNG, WebP, TIFF, BMP, PPM, …
        grey: one channel is wanted, else three.

    Returns:
        (1 or 3, H, W) uint8.

    Raises:
        NeumetaError: it is no image that can be read; says what is wrong with it.

    """
    from torchvision.io import ImageReadMode, decode_image

    mode = ImageReadMode.GRAY if grey else ImageReadMode.RGB
    content: str | Tensor
    try:
        if isinstance(file, Path):
            if grey and file.suffix.lower() == ".webp":  # which torchvision gives in colour
                return _by_pillow(file, grey)
            content = str(file)
        elif isinstance(loaded := file.load(), bytes):
            content = torch.frombuffer(bytearray(loaded), dtype=torch.uint8)
        else:
            return _by_pillow(file, grey)
        image: Tensor = decode_image(content, mode=mode)
    except (RuntimeError, OSError, ValueError):  # of a kind that torchvision knows not, or broken
        return _by_pillow(file, grey)
    if len(image) != (1 if grey else 3):  # as it gives other kinds too
        return _by_pillow(file, grey)
    if image.dtype == torch.uint16:
        return (image.int() >> 8).to(torch.uint8)
    return image


def in_planes(image: Tensor) -> Tensor:
    """The same (C, H, W) with a channel's values side by side, as a batch has them.

    Those of decoded images lie pixel by pixel, and NumPy rearranges them in less time than torch.
    """
    return torch.from_numpy(np.ascontiguousarray(image.numpy()))


def picture_in_planes(picture: "Image") -> Tensor:
    """A picture of 8 bits as (C, H, W) uint8, of which Pillow gives channel after channel."""
    bands = picture.getbands()
    values = bytearray().join(picture.tobytes("raw", band) for band in bands)
    return torch.frombuffer(values, dtype=torch.uint8).view(len(bands), *picture.size[::-1])


def _by_pillow(file: File, grey: bool) -> Tensor:
    from torchvision.transforms.v2.functional import pil_to_tensor

    try:
        with _opened(file) as picture:
            made = pil_to_tensor(_eight_bits(picture).convert("L" if grey else "RGB"))
    except Exception as error:  # Pillow's readers raise whatever damaged bytes lead to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        named = file if isinstance(file, Path) else file.name
        raise NeumetaError(f"cannot read image {named}: {reason}; {SKIP}") from error
    pixels: Tensor = made
    return pixels


def image_size(file: File) -> tuple[int, int] | None:
    """Height and width, as the file says without being decoded; None if it says nothing."""
    try:
        with _opened(file) as picture:
            return picture.height, picture.width
    except Exception:  # Pillow's readers raise whatever damaged bytes lead to
        return None


def _opened(file: File) -> "Image":
    from PIL import Image

    loaded = file if isinstance(file, Path) else file.load()
    if isinstance(loaded, Image.Image):
        return loaded
    return Image.open(io.BytesIO(loaded) if isinstance(loaded, bytes) else loaded)


def _eight_bits(picture: "Image") -> "Image":
    """An image whose grey values, if they are of more bits, are brought to 8."""
    from PIL import Image

    if picture.mode == "F":
        raise ValueError("its values are fractions, whose range nobody knows; save it with 8 bits")
    if picture.mode not in DEEP:
        return picture
    values = np.asarray(picture).astype(np.int64)
    unclear = picture.mode == "I" and picture.format not in SIXTEEN
    if unclear and 0 < values.max() <= HIGHEST[8]:
        raise ValueError("its values may be of 8 or of 16 bits, kept in 32; save it with one")
    if values.min() < 0 or values.max() > HIGHEST[16]:
        raise ValueError("its values are not of 8 or 16 bits; save it with one of these")
    return Image.fromarray((values >> 8).astype(np.uint8))


def read_mask(path: Path, size: tuple[int, int]) -> Tensor:
    """Class numbers (H, W) uint8: the values of a grey image, or the indices of a palette.

    Raises:
        NeumetaError: it cannot be read, has several channels or a class number above 255, or is a
            JPEG, whose values are not those that were saved.

    """
    from PIL import Image
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as TF

    try:
        with Image.open(path) as picture:
            lossy = picture.format == "JPEG"
            kept_as = next((tile[3] for tile in picture.tile), None)
            values = np.array(picture) // (STEPS.get(kept_as, 1) if isinstance(kept_as, str) else 1)
    except Exception as error:  # Pillow's readers raise whatever damaged bytes lead to
        raise NeumetaError(f"cannot read mask {path}: {error}; {SKIP}") from error
    if lossy:
        raise NeumetaError(f"{path} is a JPEG, which changes class numbers; save masks as PNG")
    if values.ndim != 2 or values.dtype.kind == "f":
        raise NeumetaError(
            f"{path} is no mask: it should be grey or have a palette, a class number a pixel"
        )
    if values.max() > HIGHEST[8] or values.min() < 0:
        wrong = values.max() if values.max() > HIGHEST[8] else values.min()
        raise NeumetaError(f"{path} has class {wrong}; masks have class numbers from 0 to 255")
    mask = torch.from_numpy(values.astype(np.uint8))
    if tuple(mask.shape) == size:
        return mask
    resized: Tensor = TF.resize(mask[None], list(size), InterpolationMode.NEAREST_EXACT)
    return resized[0]
