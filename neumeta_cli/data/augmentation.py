"""Random crops, flips and colours of training images, each image in its own way."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from neumeta_cli.data.settings import DataSection

MOST_SEED = 1 << 31


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator of one step's own, so that a step's draws are known before those before it."""
    digest = hashlib.sha256(f"{seed} {step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def image_seeds(count: int, generator: torch.Generator) -> Tensor:
    """Seeds (count,) of what each image of a batch draws."""
    return torch.randint(MOST_SEED, (count,), generator=generator)


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
    seeds = image_seeds(count, generator)[part].tolist()
    triples = zip(pixels, labels, seeds, strict=True)
    made = [changed(change, image, label, seed) for image, label, seed in triples]
    return torch.stack([image for image, _ in made]), torch.stack([label for _, label in made])


def changed(change: Any, image: Tensor, label: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """One image as the draws of a seed change it, and its mask along with it.

    Args:
        change: of torchvision's transforms.
        image: (C, H, W) uint8.
        label: a mask (H, W), or whatever else stays as it is.
        seed: of the draws.

    """
    from torchvision import tv_tensors

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if label.dim() != 2:
            return change(image), label
        both = change(tv_tensors.Image(image), tv_tensors.Mask(label))
    return both[0].as_subclass(Tensor), both[1].as_subclass(Tensor)


def transforms(
    data: "DataSection", size: Sequence[int], interpolation: str = "bilinear"
) -> Any | None:
    """The recipe's augmentation as torchvision's transforms, None if there is none.

    Args:
        data: what to do; where a crop leaves the image, masks are filled with ``data.ignore``.
        size: (height, width) of what comes out.
        interpolation: of crops that are resized.

    """
    from torchvision import tv_tensors
    from torchvision.transforms import InterpolationMode, v2

    steps: list[Any] = []
    if data.resized_crop is not None:
        mode = InterpolationMode(interpolation)
        scale = data.resized_crop
        steps.append(v2.RandomResizedCrop(list(size), scale, interpolation=mode, antialias=True))
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
