"""Images held as bytes or decoded on demand, normalised and augmented in batches."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neumeta_cli.data.decoding import read_image, read_mask
from neumeta_cli.data.preprocessing import Preprocessing
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Reporter

if TYPE_CHECKING:
    from neumeta_cli.data.settings import DataSection

IN_MEMORY_BYTES = 4 << 30  # larger splits are decoded again whenever they are needed
DECODED_AT_ONCE = 1000
NAMED = 3  # of the files that were left out


@dataclass(frozen=True)
class Images:
    """A split of an image set.

    Attributes:
        labels: (n,) class numbers, (n, H, W) uint8 masks, or whatever the loss takes; None where
            masks are read from ``masks`` when needed.
        classes: class names, empty where there are none.
        pixels: (n, C, H, W) uint8, or None where the images are read from ``files`` when needed.
        files: paths, empty where there are none.
        image_size: height and width of the images as given.
        masks: paths of masks, empty where there are none.
        channels: of images that are read from files: 1, grey, or 3.
        preprocessing: how those are brought to their size; None: as neumeta did before it knew
            networks' own.
        whole: files are squeezed to the size, not cut; so they are where there are masks.
        labelled: whether the labels say anything; else all are 0.

    """

    labels: Tensor | None
    classes: tuple[str, ...]
    pixels: Tensor | None
    files: tuple[Path, ...] = ()
    image_size: tuple[int, int] = (0, 0)
    masks: tuple[Path, ...] = ()
    channels: int = 3
    preprocessing: Preprocessing | None = None
    whole: bool = False
    labelled: bool = True

    def __len__(self) -> int:
        return len(self.files) if self.pixels is None else len(self.pixels)

    def fetch(self, index: Tensor) -> Tensor:
        """Images by number as (b, C, H, W) uint8.

        Raises:
            NeumetaError: a file that cannot be read as an image.

        """
        if self.pixels is not None:
            return self.pixels[index]
        return torch.stack(_each(self._read, [self.files[i] for i in index.tolist()]))

    def fetch_labels(self, index: Tensor) -> Tensor:
        """Labels by number, (b, …).

        Raises:
            NeumetaError: a file that cannot be read as a mask.

        """
        if self.labels is not None:
            return self.labels[index]
        return torch.stack(_each(self._read_mask, [self.masks[i] for i in index.tolist()]))

    def take(self, count: int, seed: int) -> "Images":
        """A random subset of ``count`` images."""
        generator = torch.Generator().manual_seed(seed)
        return self.chosen(torch.randperm(len(self), generator=generator)[:count])

    def chosen(self, index: Tensor) -> "Images":
        """These images by number, in this order."""
        return replace(
            self,
            labels=None if self.labels is None else self.labels[index],
            pixels=None if self.pixels is None else self.pixels[index],
            files=tuple(self.files[i] for i in index.tolist()) if self.files else (),
            masks=tuple(self.masks[i] for i in index.tolist()) if self.masks else (),
        )

    def fingerprint(self) -> str:
        """A digest of what the images are: names and sizes of their files, or their pixels."""
        digest = hashlib.sha256(repr((self.classes, len(self), self.image_size)).encode())
        for path in (*self.files, *self.masks):
            digest.update(f"{path.parent.name}/{path.name} {path.stat().st_size}\n".encode())
        if not self.files and self.pixels is not None:
            digest.update(self.pixels.numpy().tobytes())
        return digest.hexdigest()[:12]

    def readable(self, reporter: Reporter, split: str) -> "Images":
        """The same without files that cannot be read, which are counted and named."""
        reporter.start(f"look through {split} images", len(self))
        kept: list[int] = []
        for index in torch.arange(len(self.files)).split(DECODED_AT_ONCE):
            good = _each(self._is_readable, index.tolist())
            kept += index[torch.tensor(good)].tolist()
            reporter.advance(len(index))
        reporter.finish()
        if broken := [f.name for i, f in enumerate(self.files) if i not in set(kept)]:
            named = ", ".join(broken[:NAMED]) + (", …" if len(broken) > NAMED else "")
            kind = "training" if split == "train" else split
            reporter.tell(f"left out {len(broken)} broken {kind} images of {len(self)}: {named}")
        return self.chosen(torch.tensor(kept, dtype=torch.int64)) if broken else self

    def _is_readable(self, number: int) -> bool:
        try:
            self._read(self.files[number])
            if self.masks:
                self._read_mask(self.masks[number])
        except NeumetaError:
            return False
        return True

    def _read(self, path: Path) -> Tensor:
        image = read_image(path, self.channels == 1)
        prepared = self.preprocessing or Preprocessing(self.image_size)
        return prepared.squeezed(image) if self.whole or self.masks else prepared(image)

    def _read_mask(self, path: Path) -> Tensor:
        return read_mask(path, self.image_size)

    def held(self, reporter: Reporter, split: str) -> "Images":
        """The same with everything decoded once, if that fits in memory."""
        height, width = self.image_size
        if self.pixels is not None or len(self) * 4 * height * width > IN_MEMORY_BYTES:
            return self
        pixels = torch.empty(len(self), self.channels, height, width, dtype=torch.uint8)
        masks = [torch.empty(len(self), height, width, dtype=torch.uint8)] if self.masks else []
        reporter.start(f"read {split} images", len(self))
        for index in torch.arange(len(self)).split(DECODED_AT_ONCE):
            pixels[index] = self.fetch(index)
            for kept in masks:
                kept[index] = self.fetch_labels(index)
            reporter.advance(len(index))
        reporter.finish()
        return replace(self, pixels=pixels, labels=masks[0] if masks else self.labels)


def _each(read: Callable[[Any], Any], given: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(read, given))


def normalise(pixels: Tensor, data: "DataSection") -> Tensor:
    """uint8 (b, C, H, W) to float32, minus the mean and over the standard deviation."""
    channels = pixels.shape[1]
    mean, std = (
        torch.tensor(values, device=pixels.device).view(-1, 1, 1) for values in data.normalisation
    )
    if len(mean) != channels or len(std) != channels:
        raise NeumetaError(
            f"data.mean and data.std have {len(mean)} and {len(std)} values, "
            f"the images {channels} channels"
        )
    return (pixels.float() / 255 - mean) / std


def augment(
    pixels: Tensor,
    labels: Tensor,
    data: "DataSection",
    generator: torch.Generator,
    count: int | None = None,
    part: slice = slice(None),
) -> tuple[Tensor, Tensor]:
    """Augment images, each in its own way, and masks along with them.

    Args:
        pixels: (b, C, H, W) uint8.
        labels: (b, …); masks are (b, H, W).
        data: what to do.
        generator: of the draws.
        count: images in the batch that ``pixels`` are a part of, b if None.
        part: which of them they are.

    """
    count = len(pixels) if count is None else count
    masks = labels.dim() == 3
    if not (masks or data.resized_crop or data.crop_size or data.colour_jitter or data.blur):
        return _flipped_and_shifted(pixels, data, generator, count, part), labels
    change = transforms(data, data.crop_size or pixels.shape[-2:])
    if change is None:
        return pixels, labels
    from torchvision import tv_tensors

    seeds = torch.randint(1 << 31, (count,), generator=generator)[part].tolist()
    made: list[tuple[Tensor, Tensor]] = []
    with torch.random.fork_rng(devices=[]):
        for seed, image, label in zip(seeds, pixels, labels, strict=True):
            torch.manual_seed(seed)
            if masks:
                both = change(tv_tensors.Image(image), tv_tensors.Mask(label))
                made.append((both[0].as_subclass(Tensor), both[1].as_subclass(Tensor)))
            else:
                made.append((change(image), label))
    return torch.stack([image for image, _ in made]), torch.stack([label for _, label in made])


def transforms(data: "DataSection", size: Sequence[int]) -> Any | None:
    """The recipe's augmentation as torchvision's transforms, None if there is none.

    Args:
        data: what to do; where a crop leaves the image, masks are filled with ``data.ignore``.
        size: (height, width) of what comes out.

    """
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    steps: list[Any] = []
    if data.resized_crop is not None:
        steps.append(v2.RandomResizedCrop(list(size), scale=data.resized_crop, antialias=True))
    elif data.crop_padding or data.crop_size:
        fill = {tv_tensors.Mask: data.ignore or 0, "others": 0}
        pad = data.crop_padding or None
        steps.append(v2.RandomCrop(list(size), pad, pad_if_needed=True, fill=fill))
    if data.flip:
        steps.append(v2.RandomHorizontalFlip())
    if data.colour_jitter:
        j = data.colour_jitter
        steps.append(v2.ColorJitter(brightness=j, contrast=j, saturation=j, hue=min(0.5, j / 4)))
    if data.blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(5, sigma=(0.1, 2.0))], p=data.blur))
    return v2.Compose(steps) if steps else None


def _flipped_and_shifted(
    pixels: Tensor, data: "DataSection", generator: torch.Generator, count: int, part: slice
) -> Tensor:
    """Random crops after zero padding and random flips of all images in one gather."""
    _, _, height, width = pixels.shape
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
