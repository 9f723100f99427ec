"""Images held as bytes or decoded on demand, normalised and augmented in batches."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.datasets import MNIST
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as TF

from neumeta_cli.errors import NeumetaError
from neumeta_cli.recipe import DataSection
from neumeta_cli.reporting import Reporter, Silent

IN_MEMORY_BYTES = 4 << 30  # larger splits are decoded again whenever they are needed
SPLITS = {"train": ("train",), "test": ("test", "val", "validation")}


@dataclass(frozen=True)
class Images:
    """A split of a labelled image set.

    Attributes:
        labels: (n,) class numbers.
        classes: class names.
        pixels: (n, C, H, W) uint8, or None where the images are read from ``files`` when needed.
        files: paths, empty where there are none.
        image_size: height and width of the images as given.

    """

    labels: Tensor
    classes: tuple[str, ...]
    pixels: Tensor | None
    files: tuple[Path, ...] = ()
    image_size: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, index: Tensor) -> Tensor:
        """Images by number as (b, C, H, W) uint8.

        Raises:
            NeumetaError: a file that cannot be read as an image.

        """
        if self.pixels is not None:
            return self.pixels[index]
        return _decode([self.files[i] for i in index.tolist()], self.image_size)

    def take(self, count: int, seed: int) -> "Images":
        """A random subset of ``count`` images."""
        generator = torch.Generator().manual_seed(seed)
        index = torch.randperm(len(self), generator=generator)[:count]
        return replace(
            self,
            labels=self.labels[index],
            pixels=None if self.pixels is None else self.pixels[index],
            files=tuple(self.files[i] for i in index.tolist()) if self.files else (),
        )


def load_images(
    data: DataSection,
    split: str,
    input_size: tuple[int, int, int],
    reporter: Reporter | None = None,
) -> Images:
    """Open the split ``train`` or ``test`` of a data set.

    Args:
        data: the recipe's section.
        split: which.
        input_size: (C, H, W) that the network takes.
        reporter: is told of the progress.

    Raises:
        NeumetaError: no folder given, or one that does not hold what is expected.

    """
    if data.format == "digits":
        return _digits(split)
    if data.root is None:
        raise NeumetaError(
            "no data folder given; pass --data DIR, a folder with train/<class>/*.jpg and "
            "test/<class>/*.jpg (or val/), as ImageNet and torchvision's ImageFolder have it, or "
            "for MNIST one with MNIST/raw/"
        )
    if data.format == "mnist":
        return _mnist(Path(data.root), split)
    size = data.image_size or input_size[1]
    return _image_folder(Path(data.root), split, size, reporter or Silent())


def _digits(split: str) -> Images:
    """scikit-learn's 8×8 digits: of each five images one is for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    testing = torch.arange(len(labels)) % 5 == 4
    chosen = testing if split == "test" else ~testing
    names = tuple(str(n) for n in bunch.target_names)
    return Images(labels[chosen], names, pixels[chosen], image_size=8)


def _mnist(root: Path, split: str) -> Images:
    try:
        found = MNIST(str(root), train=split == "train")
    except (RuntimeError, OSError, ValueError) as error:
        raise NeumetaError(
            f"{root} does not hold MNIST; expected MNIST/raw/train-images-idx3-ubyte and the other "
            "three files as published, unpacked"
        ) from error
    names = tuple(str(n) for n in range(10))
    return Images(found.targets, names, found.data[:, None], image_size=28)


def _image_folder(root: Path, split: str, image_size: int, reporter: Reporter) -> Images:
    if not root.is_dir():
        raise NeumetaError(f"no such data folder: {root}")
    folder = next((root / name for name in SPLITS[split] if (root / name).is_dir()), None)
    if folder is None:
        wanted = " or ".join(f"{name}/" for name in SPLITS[split])
        raise NeumetaError(
            f"{root} has no {wanted}; expected train/<class>/*.jpg and test/<class>/…"
        )
    try:
        classes, numbers = find_classes(str(folder))
        samples = make_dataset(str(folder), numbers, extensions=IMG_EXTENSIONS, allow_empty=True)
    except (FileNotFoundError, OSError) as error:
        raise NeumetaError(f"{folder} has no class folders with images in them") from error
    if not samples:
        raise NeumetaError(f"{folder} holds no images ({', '.join(IMG_EXTENSIONS[:4])}, …)")
    files = tuple(Path(path) for path, _ in samples)
    labels = torch.tensor([label for _, label in samples])
    images = Images(labels, tuple(classes), None, files, image_size)
    if len(files) * 3 * image_size**2 > IN_MEMORY_BYTES:
        return images
    pixels = torch.empty(len(files), 3, image_size, image_size, dtype=torch.uint8)
    reporter.start(f"read {split} images", len(files))
    for index in torch.arange(len(files)).split(1000):
        pixels[index] = images.fetch(index)
        reporter.advance(len(index))
    reporter.finish()
    return replace(images, pixels=pixels)


def _decode(files: Sequence[Path], size: int) -> Tensor:
    def one(path: Path) -> Tensor:
        try:
            image = decode_image(str(path), mode=ImageReadMode.RGB)
        except (RuntimeError, OSError) as error:
            raise NeumetaError(f"cannot read image {path}: {str(error).splitlines()[0]}") from error
        if image.shape[-2:] != (size, size):
            # As is usual for ImageNet: the short side to 8/7 of the crop, then the centre.
            short = round(size * 8 / 7) if min(image.shape[-2:]) > size else size
            image = TF.center_crop(TF.resize(image, [short], antialias=True), [size, size])
        return image

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return torch.stack(list(pool.map(one, files)))


def normalise(pixels: Tensor, data: DataSection) -> Tensor:
    """uint8 (b, C, H, W) to float32, minus the mean and over the standard deviation."""
    channels = pixels.shape[1]
    mean = torch.tensor(data.mean, device=pixels.device).view(-1, 1, 1)
    std = torch.tensor(data.std, device=pixels.device).view(-1, 1, 1)
    if len(mean) != channels or len(std) != channels:
        raise NeumetaError(
            f"data.mean and data.std have {len(mean)} and {len(std)} values, "
            f"the images {channels} channels"
        )
    return (pixels.float() / 255 - mean) / std


def augment(
    pixels: Tensor,
    data: DataSection,
    generator: torch.Generator,
    count: int | None = None,
    part: slice = slice(None),
) -> Tensor:
    """Random crops after zero padding and random flips, each image its own, in one gather.

    Args:
        pixels: (b, C, H, W).
        data: what to do.
        generator: of the draws.
        count: images in the batch that ``pixels`` are a part of, b if None.
        part: which of them they are.

    """
    _, _, height, width = pixels.shape
    count = len(pixels) if count is None else count
    pad = data.crop_padding
    if not (data.flip or pad):
        return pixels
    rows = torch.arange(height).expand(len(pixels), height)
    columns = torch.arange(width).expand(len(pixels), width)
    if data.flip:
        flipped = torch.rand(count, 1, generator=generator)[part] < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    if pad:
        pixels = F.pad(pixels, (pad, pad, pad, pad))
        shift = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)[:, part]
        rows, columns = rows + shift[0], columns + shift[1]
    flat = (rows[:, :, None] * pixels.shape[3] + columns[:, None, :]).flatten(1)
    index = flat[:, None, :].expand(-1, pixels.shape[1], -1).to(pixels.device)
    return pixels.flatten(2).gather(2, index).view(len(pixels), -1, height, width)
