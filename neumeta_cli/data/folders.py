"""Images in a user's folders: with a split or without, with classes, with masks, or alone."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from neumeta_cli.data.images import Images
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Reporter

if TYPE_CHECKING:
    from neumeta_cli.data.settings import DataSection

SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
SHOWN = 4  # names in a message
OF_SYSTEMS = frozenset(  # folders that archives, servers and tools leave beside those of a user
    [
        *("__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found"),
        "System Volume Information",
    ]
)
NOT_READ = frozenset(  # endings of images that are not taken for ones
    [
        *(".gif", ".jfif", ".jpe", ".jp2", ".jxl", ".avif", ".heic", ".heif", ".tga", ".svg"),
        *(".dng", ".cr2", ".nef", ".exr", ".hdr", ".psd", ".ico", ".pbm", ".npy"),
    ]
)


@dataclass(frozen=True)
class Wanted:
    """What is to be read.

    Attributes:
        root: the folder.
        split: ``train`` or ``test``.
        size: height and width of the images.
        data: the recipe's section.
        reporter: is told of what a user should know.
        channels: of the images: 1, grey, or 3.

    """

    root: Path
    split: str
    size: tuple[int, int]
    data: "DataSection"
    reporter: Reporter
    channels: int = 3


@dataclass(frozen=True)
class Part:
    """The images under a folder that make up a split: all of them, or by a hash of their names."""

    folder: Path
    split: str
    fraction: float | None  # of those for testing, where train and test share the folder

    def takes(self, path: Path) -> bool:
        """Whether an image is in the split; other images have no say in it."""
        if self.fraction is None:
            return True
        name = path.relative_to(self.folder).as_posix()
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
        testing = int.from_bytes(digest[:8], "big") < self.fraction * 2**64
        return testing == (self.split == "test")

    def tell(self, taken: int, count: int, reporter: Reporter) -> None:
        """Say aloud that a folder is split that its owner has not split."""
        if self.fraction is not None and self.split == "test":
            reporter.tell(
                f"{self.folder} has no train/ and test/: {taken:,} of {count:,} images, chosen by "
                f"a hash of their names, are for testing (data.test_fraction: {self.fraction:g})"
            )


def part_of(wanted: Wanted) -> Part:
    """Where a split is.

    Raises:
        NeumetaError: the folder has the other split alone.

    """
    root, split = wanted.root, wanted.split
    for name in SPLITS[split]:
        if (root / name).is_dir():
            return Part(root / name, split, None)
    if any((root / name).is_dir() for names in SPLITS.values() for name in names):
        names = " or ".join(f"{name}/" for name in SPLITS[split])
        hint = "; or name a folder of test images with --test-data" if split == "test" else ""
        raise NeumetaError(f"{root} has no {names}{hint}")
    apart = wanted.data.test_root is not None
    return Part(root, split, None if apart else wanted.data.test_fraction)


def images_under(folder: Path) -> list[Path]:
    """Every image at any depth, in torchvision's order; hidden files and folders are left out."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    found = []
    for place, _, names in sorted(os.walk(folder, followlinks=True)):
        if any(map(_is_no_place, Path(place).relative_to(folder).parts)):
            continue
        wanted = (n for n in sorted(names) if n.lower().endswith(IMG_EXTENSIONS))
        found += [Path(place, name) for name in wanted if not name.startswith(".")]
    return found


def _is_no_place(name: str) -> bool:
    """Whether a folder is hidden, or made by a system or a tool."""
    return name.startswith(".") or name in OF_SYSTEMS


def _tell_left_out(folders: Sequence[Path], listed: Sequence[Sequence[Path]], to: Reporter) -> None:
    """Say which class folders are empty, and images of which endings are not read."""
    empty = [folder.name for folder, paths in zip(folders, listed, strict=True) if not paths]
    if empty:
        to.tell(f"class folders of {folders[0].parent} without images: {_named(empty)}")
    files = (path for folder in folders for path in folder.iterdir())
    other = [p.suffix.lower() for p in files if p.suffix.lower() in NOT_READ]
    if other:
        endings = ", ".join(sorted(set(other)))
        to.tell(f"left out {len(other):,} files in {folders[0].parent} that end in {endings}")


def image_folder(wanted: Wanted) -> Images:
    """Class folders, or images without labels where there are none or the recipe says so.

    Raises:
        NeumetaError: there are no images.

    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    part = part_of(wanted)
    folders = _class_folders(part.folder, wanted) if wanted.data.labels else []
    listed = [images_under(folder) for folder in folders]
    if any(listed):
        _tell_left_out(folders, listed, wanted.reporter)
        labelled = [(path, label) for label, paths in enumerate(listed) for path in paths]
    else:
        folders, labelled = [], [(path, 0) for path in images_under(part.folder)]
    taken = [(path, label) for path, label in labelled if part.takes(path)]
    if not labelled:
        raise NeumetaError(f"{part.folder} holds no images ({', '.join(IMG_EXTENSIONS[:4])}, …)")
    part.tell(len(taken), len(labelled), wanted.reporter)
    labels = torch.tensor([label for _, label in taken], dtype=torch.int64)
    return Images(
        labels,
        tuple(folder.name for folder in folders),
        None,
        tuple(path for path, _ in taken),
        wanted.size,
        labelled=bool(folders),
    )


def _class_folders(folder: Path, wanted: Wanted) -> list[Path]:
    """The folders of classes by class number."""
    found = [p for p in folder.iterdir() if p.is_dir() and not _is_no_place(p.name)]
    orders = {"text": sorted(found, key=lambda p: p.name)}
    orders["number"] = orders["text"]
    if all(p.name.isdecimal() for p in found):
        orders["number"] = sorted(found, key=lambda p: (int(p.name), p.name))
    chosen = wanted.data.class_order
    if orders["text"] != orders["number"] and wanted.split == "test":
        other = "number" if chosen == "text" else "text"
        ways = {order: _named([p.name for p in ps]) for order, ps in orders.items()}
        wanted.reporter.tell(
            f"class folders of {folder} are sorted by {chosen}: {ways[chosen]}; for {ways[other]} "
            f"set data.class_order={other}"
        )
    return orders[chosen]


def mask_folder(wanted: Wanted) -> Images:
    """Images and masks of the same names, side by side.

    Raises:
        NeumetaError: a folder or a mask lacks.

    """
    part = part_of(wanted)
    folder = part.folder
    if not (folder / "images").is_dir() or not (folder / "masks").is_dir():
        raise NeumetaError(f"{folder} lacks images/ or masks/")
    listed = [f for f in images_under(folder / "images") if f.parent == folder / "images"]
    by_stem = {f.stem: f for f in images_under(folder / "masks") if f.parent == folder / "masks"}
    if not listed:
        raise NeumetaError(f"{folder / 'images'} holds no images")
    if lacking := [f.name for f in listed if f.stem not in by_stem]:
        raise NeumetaError(f"{folder / 'masks'} has no mask to {lacking[0]}")
    files = tuple(f for f in listed if part.takes(f))
    part.tell(len(files), len(listed), wanted.reporter)
    masks = tuple(by_stem[f.stem] for f in files)
    return Images(None, (), None, files, wanted.size, masks)


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
