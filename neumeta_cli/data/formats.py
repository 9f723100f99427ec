"""Data sets in the layouts that torchvision and their publishers give them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.error import URLError

import numpy as np
import torch

from neumeta_cli.data.decoding import image_size
from neumeta_cli.data.folders import Wanted, image_folder, mask_folder
from neumeta_cli.data.images import Images
from neumeta_cli.data.preprocessing import preprocessing_of
from neumeta_cli.data.timm_sets import timm_set
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Reporter, Silent

if TYPE_CHECKING:
    from neumeta_cli.data.settings import DataSection

SEEN = 20  # images whose size is looked at


@dataclass(frozen=True)
class Format:
    """A layout of data on disk.

    Attributes:
        read: opens a split.
        about: the same in a few words, for whoever looks for a format.
        layout: what the folder is expected to hold.
        labels: what each image has.
        download: fetches it into a folder; None where nobody may or can.
        needs_folder: whether it is read from a folder that must be given.
        packed: whether that may be a file.

    """

    read: Callable[[Wanted], Images]
    about: str
    layout: str
    labels: Literal["class", "mask", "nothing"] = "class"
    download: Callable[[Path], object] | None = None
    needs_folder: bool = True
    packed: bool = False


def load_images(
    data: "DataSection",
    split: str,
    input_size: tuple[int, int, int],
    reporter: Reporter | None = None,
) -> Images:
    """Open the split ``train`` or ``test`` of a data set, decoded if it fits in memory.

    Args:
        data: the recipe's section.
        split: which.
        input_size: (C, H, W) that the network takes.
        reporter: is told of the progress.

    Raises:
        NeumetaError: see ``find_images``.

    """
    reporter = reporter or Silent()
    images = find_images(data, split, input_size, reporter)
    if data.skip_broken and images.files:
        images = images.readable(reporter, split)
    _tell_enlarged(images, split, reporter)
    return images.held(reporter, split, data.in_memory)


def find_images(
    data: "DataSection",
    split: str,
    input_size: tuple[int, int, int],
    reporter: Reporter | None = None,
) -> Images:
    """Find the images of the split ``train`` or ``test`` of a data set.

    Args:
        data: the recipe's section.
        split: which.
        input_size: (C, H, W) that the network takes.
        reporter: is told how the folder is taken.

    Raises:
        NeumetaError: no folder given, or one that does not hold what is expected.

    """
    form = FORMATS[data.format]
    alone = split == "test" and data.test_root is not None
    root = require_root(data.at(data.test_root) if alone and data.test_root else data)
    if data.download:
        _download(form, data.format, root)
    given = data.image_size or (input_size[1], input_size[2])
    size = (given, given) if isinstance(given, int) else given
    try:
        wanted = Wanted(root, split, size, data, reporter or Silent(), input_size[0])
        images = form.read(wanted)
    except NeumetaError as error:
        raise NeumetaError(f"{error}; expected {form.layout}") from error
    except (RuntimeError, OSError, ValueError, LookupError) as error:
        hint = " (--download fetches it)" if form.download else ""
        raise NeumetaError(
            f"{root} does not hold {data.format} data: expected {form.layout}{hint}"
        ) from error
    prepared = preprocessing_of(data, size)
    return replace(images, channels=input_size[0], preprocessing=prepared, workers=data.workers)


def _tell_enlarged(images: Images, split: str, reporter: Reporter) -> None:
    """Say it where most images are smaller than the network takes them, by a few of them."""
    step = max(1, len(images.files) // SEEN)
    sides = [size for file in images.files[::step] if (size := image_size(file)) is not None]
    if images.pixels is not None or not sides:
        return
    height, width = (sorted(side)[len(sides) // 2] for side in zip(*sides, strict=True))
    if height < images.image_size[0] and width < images.image_size[1]:
        given, taken = f"{height}×{width}", "×".join(map(str, images.image_size))
        reporter.tell(
            f"the {'training' if split == 'train' else split} images are small, {given} in the "
            f"middle, and are enlarged to the {taken} that the network takes; model.input_size "
            "and data.image_size change that"
        )


def require_root(data: "DataSection") -> Path:
    """The folder of a data set; it exists, or is made where the data are to be downloaded.

    Raises:
        NeumetaError: none is given, or it is not there.

    """
    if data.format in NOTHING_TO_READ:
        return Path()
    if data.root is None:
        raise NeumetaError(
            f"no data folder given; pass --data DIR, with {FORMATS[data.format].layout}"
        )
    root = Path(data.root)
    there = root.exists() if FORMATS[data.format].packed else root.is_dir()
    if not there and not data.download:
        raise NeumetaError(f"no such data folder: {root}")
    return root


def _download(form: Format, name: str, root: Path) -> None:
    if form.download is None:
        raise NeumetaError(
            f"{name} data cannot be downloaded; give a folder with --data, with {form.layout}"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        form.download(root)
    except (URLError, RuntimeError, OSError) as error:
        raise NeumetaError(
            f"cannot download {name} data to {root}: {error}; put there by hand {form.layout}"
        ) from error


def _digits(wanted: Wanted) -> Images:
    """scikit-learn's 8×8 digits: of each five images one is for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    testing = torch.arange(len(labels)) % 5 == 4
    chosen = testing if wanted.split == "test" else ~testing
    names = tuple(str(n) for n in bunch.target_names)
    return Images(labels[chosen], names, pixels[chosen], image_size=(8, 8))


def _mnist(wanted: Wanted) -> Images:
    found = _torchvision("MNIST")(str(wanted.root), train=wanted.split == "train")
    names = tuple(str(n) for n in range(10))
    return Images(found.targets, names, found.data[:, None], image_size=(28, 28))


def _cifar(name: str) -> Callable[[Wanted], Images]:
    def read(wanted: Wanted) -> Images:
        found = _torchvision(name)(str(wanted.root), train=wanted.split == "train")
        pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
        return Images(torch.tensor(found.targets), tuple(found.classes), pixels, (), (32, 32))

    return read


def _voc(wanted: Wanted) -> Images:
    """PASCAL VOC 2012; the augmented training set (Hariharan et al., 2011) where it is there."""
    root, split, size = wanted.root, wanted.split, wanted.size
    base = root / "VOCdevkit" / "VOC2012"
    listed, masks = base / "ImageSets/Segmentation/trainaug.txt", base / "SegmentationClassAug"
    if split == "train" and listed.is_file() and masks.is_dir():
        names = listed.read_text("utf-8").split()
        files = tuple(base / "JPEGImages" / f"{n.rpartition('/')[2]}.jpg" for n in names)
        return Images(None, (), None, files, size, tuple(masks / f"{f.stem}.png" for f in files))
    found = _torchvision("VOCSegmentation")(
        str(root), image_set="train" if split == "train" else "val"
    )
    return Images(None, (), None, _paths(found.images), size, _paths(found.masks))


def _celeba(wanted: Wanted) -> Images:
    found = _torchvision("CelebA")(str(wanted.root), split=wanted.split, target_type=[])
    folder = wanted.root / found.base_folder / "img_align_celeba"
    files = _paths(str(folder / name) for name in found.filename)
    return Images(torch.zeros(len(files), dtype=torch.int64), (), None, files, wanted.size)


def _torchvision(name: str) -> Any:
    """A data set of torchvision, which takes long to import."""
    import torchvision.datasets

    return getattr(torchvision.datasets, name)


def _paths(names: object) -> tuple[Path, ...]:
    return tuple(Path(name) for name in names)  # type: ignore[attr-defined]


def _own(wanted: Wanted) -> Images:
    raise NeumetaError("data.format is own, but the task has no load() of its own")


def _both_splits(name: str) -> Callable[[Path], object]:
    def download(root: Path) -> None:
        for train in (True, False):
            _torchvision(name)(str(root), train=train, download=True)

    return download


AS_TORCHVISION = "as torchvision has it"
FORMATS: Mapping[str, Format] = {
    "digits": Format(
        _digits,
        "ships with scikit-learn",
        "nothing: they ship with scikit-learn",
        needs_folder=False,
    ),
    "mnist": Format(
        _mnist,
        AS_TORCHVISION,
        "MNIST/raw/train-images-idx3-ubyte and the other three files as published, unpacked",
        download=_both_splits("MNIST"),
    ),
    "cifar10": Format(
        _cifar("CIFAR10"),
        AS_TORCHVISION,
        "cifar-10-batches-py/ as published, unpacked",
        download=_both_splits("CIFAR10"),
    ),
    "cifar100": Format(
        _cifar("CIFAR100"),
        AS_TORCHVISION,
        "cifar-100-python/ as published, unpacked",
        download=_both_splits("CIFAR100"),
    ),
    "image_folder": Format(
        image_folder,
        "train/<class>/ and test/ or val/ likewise, <class>/ alone, or images without classes",
        "train/<class>/*.jpg and test/<class>/*.jpg (or val/), as ImageNet has them, <class>/*.jpg "
        "alone, or images without classes",
    ),
    "mask_folder": Format(
        mask_folder,
        "train/images/ and train/masks/, and test/ or val/ likewise",
        "train/images/*.png and train/masks/*.png of the same names, and test/ (or val/) likewise",
        labels="mask",
    ),
    "voc": Format(
        _voc,
        AS_TORCHVISION,
        "VOCdevkit/VOC2012/ with JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/ (for "
        "the augmented set also SegmentationClassAug/ and trainaug.txt)",
        labels="mask",
        download=lambda root: _torchvision("VOCSegmentation")(
            str(root), image_set="train", download=True
        ),
    ),
    "celeba": Format(
        _celeba,
        AS_TORCHVISION,
        "celeba/ with img_align_celeba/*.jpg, list_eval_partition.txt and the other lists as "
        "published",
        labels="nothing",
        download=lambda root: _torchvision("CelebA")(str(root), split="all", download=True),
    ),
    "timm": Format(
        timm_set,
        "what timm's create_dataset reads, by the name in data.reader",
        "class folders, a .tar file of them, or what data.reader reads",
        packed=True,
    ),
    "own": Format(_own, "a task of your own reads it", "what your task reads", needs_folder=False),
}
NOTHING_TO_READ = tuple(name for name, form in FORMATS.items() if not form.needs_folder)
