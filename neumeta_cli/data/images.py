"""Images held as bytes or read from their files on demand."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neumeta_cli.data.ahead import ReadAhead
from neumeta_cli.data.augmentation import augment, image_seeds, step_generator
from neumeta_cli.data.decoding import File, described, in_planes, read_image, read_mask
from neumeta_cli.data.preprocessing import Preprocessing
from neumeta_cli.data.samples import Draw, Samples
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Reporter, counted

if TYPE_CHECKING:
    from neumeta_cli.data.settings import DataSection

Asked = tuple[Tensor, torch.Generator | None, slice]  # as ``batch`` is asked: index, …, part
DECODED_AT_ONCE = 1000
NORMALISED_AT_ONCE = 1 << 17  # values of a thread, which its cache holds from step to step
NAMED = 3  # of the files that were left out


@dataclass(frozen=True)
class Images:
    """A split of an image set.

    Attributes:
        labels: (n,) class numbers, (n, H, W) uint8 masks, or whatever the loss takes; None where
            masks are read from ``masks`` when needed.
        classes: class names, empty where there are none.
        pixels: (n, C, H, W) uint8, or None where the images are read from ``files`` when needed.
        files: paths, or what else is read like a file; empty where there are none.
        image_size: height and width of the images as given.
        masks: paths of masks, empty where there are none.
        channels: of images that are read from files: 1, grey, or 3.
        preprocessing: how those are brought to their size; None: as neumeta did before it knew
            networks' own.
        whole: files are squeezed to the size, not cut; so they are where there are masks.
        labelled: whether the labels say anything; else all are 0.
        workers: processes that read files ahead; as many as suit the machine if None.

    """

    labels: Tensor | None
    classes: tuple[str, ...]
    pixels: Tensor | None
    files: tuple[File, ...] = ()
    image_size: tuple[int, int] = (0, 0)
    masks: tuple[Path, ...] = ()
    channels: int = 3
    preprocessing: Preprocessing | None = None
    whole: bool = False
    labelled: bool = True
    workers: int | None = None
    _ahead: ReadAhead = field(default_factory=ReadAhead, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.files) if self.pixels is None else len(self.pixels)

    def fetch(self, index: Tensor) -> Tensor:
        """Images by number as (b, C, H, W) uint8.

        Raises:
            NeumetaError: a file that cannot be read as an image.

        """
        if self.pixels is not None:
            return self.pixels[index]
        return torch.stack(_each(self.read, index.tolist()))

    def fetch_labels(self, index: Tensor) -> Tensor:
        """Labels by number, (b, …).

        Raises:
            NeumetaError: a file that cannot be read as a mask.

        """
        if self.labels is not None:
            return self.labels[index]
        return torch.stack(_each(self._read_mask, [self.masks[i] for i in index.tolist()]))

    def batch(
        self,
        index: Tensor,
        data: "DataSection",
        generator: torch.Generator | None = None,
        part: slice = slice(None),
    ) -> tuple[Tensor, Tensor]:
        """Pixels (b, C, H, W) uint8 and labels (b, …) by number, augmented if a generator is given.

        Those in memory are augmented as they are held, those in files before they are cut.

        Args:
            index: numbers of the whole batch.
            data: how to augment.
            generator: of the draws; all of the batch are drawn for.
            part: which of the batch are wanted.

        Raises:
            NeumetaError: a file that cannot be read.

        """
        if self.pixels is not None:
            pixels, labels = self.fetch(index[part]), self.fetch_labels(index[part])
            if generator is None:
                return pixels, labels
            return augment(pixels, labels, data, generator, len(index), part)
        draw = _drawn(index, generator, part)
        if (found := self._ahead.take(draw)) is not None:
            return found
        if draw.seeds is None:
            return self.fetch(draw.index), self.fetch_labels(draw.index)
        return Samples(self, data).batch(draw.pairs())

    def expect(
        self, asked: Iterable[Asked], data: "DataSection", device: torch.device | str = "cpu"
    ) -> None:
        """Announce what ``batch`` will be asked for next, in this order, so that it is read ahead.

        Args:
            asked: arguments of ``batch``, each with a generator of its own, which stays as it is.
            data: the same as there.
            device: where the batches are to be.

        """
        if self.pixels is None:
            draws = [_foreseen(*each) for each in asked]
            place = torch.device(device)
            samples = Samples(replace(self), data)  # which expects nothing itself
            self._ahead.expect(samples, draws, self.workers, place)

    def generator(self, own: torch.Generator, seed: int, step: int) -> torch.Generator:
        """What augments a step's images: ``own``, or one of the step's where they are read ahead.

        Args:
            own: goes from step to step.
            seed: of the training.
            step: the number of the step.

        """
        return own if self.pixels is not None else step_generator(seed, step)

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
            digest.update(f"{described(path)}\n".encode())
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
            reporter.tell(
                f"left out {counted(len(broken), f'broken {kind} image')} of {len(self):,}: {named}"
            )
        return self.chosen(torch.tensor(kept, dtype=torch.int64)) if broken else self

    def _is_readable(self, number: int) -> bool:
        try:
            self.read(number)
            if self.masks:
                self._read_mask(self.masks[number])
        except NeumetaError:
            return False
        return True

    def read(self, number: int) -> Tensor:
        """One image from its file, brought to its size: (C, H, W) uint8.

        Raises:
            NeumetaError: it cannot be read as an image.

        """
        image = read_image(self.files[number], self.channels == 1)
        prepared = self.preprocessing or Preprocessing(self.image_size)
        return in_planes(prepared.squeezed(image) if self.whole or self.masks else prepared(image))

    def _read_mask(self, path: Path) -> Tensor:
        return read_mask(path, self.image_size)

    def held(self, reporter: Reporter, split: str, most: int) -> "Images":
        """The same with everything decoded once, if that takes at most so many bytes."""
        height, width = self.image_size
        if self.pixels is not None or len(self) * 4 * height * width > most:
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


def _drawn(index: Tensor, generator: torch.Generator | None, part: slice) -> Draw:
    seeds = None if generator is None else image_seeds(len(index), generator)[part]
    return Draw(index[part], seeds)


def _foreseen(index: Tensor, generator: torch.Generator | None, part: slice) -> Draw:
    """What ``_drawn`` will give."""
    if generator is None:
        return _drawn(index, None, part)
    state = generator.get_state()
    try:
        return _drawn(index, generator, part)
    finally:
        generator.set_state(state)


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
    x = torch.empty_like(pixels, dtype=torch.float32)
    many = len(pixels)  # at once
    if x.device.type == "cpu":
        many = max(1, torch.get_num_threads() * NORMALISED_AT_ONCE // max(1, x[:1].numel()))
    for given, made in zip(pixels.split(many), x.split(many), strict=True):
        made.copy_(given).div_(255).sub_(mean).div_(std)
    return x
