"""One image from its file to what a batch holds, augmented where it is read: on the original."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from neumeta_cli.data.augmentation import changed, transforms
from neumeta_cli.data.decoding import read_image, read_mask
from neumeta_cli.errors import NeumetaError

if TYPE_CHECKING:
    from neumeta_cli.data.images import Images
    from neumeta_cli.data.settings import DataSection


@dataclass(frozen=True, eq=False)
class Draw:
    """The images of a batch.

    Attributes:
        index: (b,) their numbers.
        seeds: (b,) of their augmentation, None where there is none.

    """

    index: Tensor
    seeds: Tensor | None = None

    def same(self, other: "Draw") -> bool:
        """Whether both give the same pixels."""
        if self.seeds is None or other.seeds is None:
            return self.seeds is other.seeds and torch.equal(self.index, other.index)
        return torch.equal(self.index, other.index) and torch.equal(self.seeds, other.seeds)

    def pairs(self) -> list[tuple[int, int | None]]:
        """The number and the seed of each image."""
        seeds = [None] * len(self.index) if self.seeds is None else self.seeds.tolist()
        return list(zip(self.index.tolist(), seeds, strict=True))


@dataclass(frozen=True)
class Samples:
    """Images that are read from files, as the data set of torch's ``DataLoader``.

    What an image draws depends on its seed alone, so it does not matter who reads it.

    Attributes:
        images: a split.
        data: the recipe's section.

    """

    images: "Images"
    data: "DataSection"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, pair: tuple[int, int | None]) -> tuple[Tensor, Tensor]:
        """Pixels (C, H, W) uint8 and label of an image by number, augmented if it has a seed.

        Raises:
            NeumetaError: a file that cannot be read as an image or a mask.

        """
        number, seed = pair
        if seed is None or self._change is None:
            return self._prepared(number)
        if self.data.resized_crop is None:
            return changed(self._change, *self._prepared(number), seed)
        images = self.images
        image = read_image(images.files[number], images.channels == 1)
        label = self._label(number, (image.shape[-2], image.shape[-1]))
        return changed(self._change, image, label, seed)

    def __getitems__(self, pairs: Sequence[tuple[int, int | None]]) -> tuple[Tensor, Tensor] | str:
        """A batch, or what is wrong with a file: a worker cannot raise it in one line."""
        try:
            return self.batch(pairs)
        except NeumetaError as error:
            return str(error)

    def batch(self, pairs: Sequence[tuple[int, int | None]]) -> tuple[Tensor, Tensor]:
        """Pixels (b, C, H, W) uint8 and labels (b, …).

        Raises:
            NeumetaError: a file that cannot be read as an image or a mask.

        """
        pixels, labels = default_collate([self[pair] for pair in pairs])
        return pixels, labels

    @cached_property
    def _change(self) -> Any | None:
        size, preprocessing = self.images.image_size, self.images.preprocessing
        own = "bilinear" if preprocessing is None else preprocessing.interpolation
        return transforms(self.data, self.data.crop_size or size, own)

    def _prepared(self, number: int) -> tuple[Tensor, Tensor]:
        images = self.images
        return images.read(number), self._label(number, images.image_size)

    def _label(self, number: int, size: tuple[int, int]) -> Tensor:
        images = self.images
        return (
            read_mask(images.masks[number], size)
            if images.labels is None
            else images.labels[number]
        )
