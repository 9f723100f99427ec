"""Data sets as timm reads them: folders, tar files, Hugging Face's, WebDataset's, torchvision's."""

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from neumeta_cli.data.decoding import Loaded
from neumeta_cli.data.folders import SPLITS, Part, Wanted, part_of
from neumeta_cli.data.images import Images
from neumeta_cli.data.preprocessing import preprocessing_of
from neumeta_cli.errors import NeumetaError

STREAMS = ("wds", "hfids", "tfds")  # which give one image after the other, and none by number
PACKAGES = {  # by kind: what is imported, and what is to be installed
    "hfds": ("datasets", "datasets"),
    "hfids": ("datasets", "datasets"),
    "wds": ("webdataset", "webdataset"),
    "tfds": ("tensorflow_datasets", "tensorflow tensorflow-datasets"),
}


@dataclass(frozen=True)
class InTar:
    """An image in a tar file, which is read without going through the file."""

    path: Path
    offset: int
    size: int
    name: str

    def load(self) -> Loaded:
        """Its bytes."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class InSet:
    """An image by number in a set that timm opened."""

    source: Any
    number: int
    name: str
    size: int = 0

    def load(self) -> Loaded:
        """Its bytes, or the image where the set decodes it."""
        found = self.source[self.number][0]
        if not hasattr(found, "read"):
            loaded: Loaded = found
            return loaded
        with found:
            content: bytes = found.read()
        return content


def timm_set(wanted: Wanted) -> Images:
    """A split of what ``timm.data.create_dataset`` opens by the name in ``data.reader``.

    Folders and tar files are split like any folder; sets that have splits by name have theirs.
    Streams are read once, into memory.

    Raises:
        NeumetaError: a package lacks, or timm cannot read it.

    """
    name = wanted.data.reader
    kind = name.partition("/")[0].lower() if "/" in name else ""
    if not kind:
        return _files(wanted)
    module, package = PACKAGES.get(kind, ("torchvision", ""))
    if find_spec(module) is None:
        raise NeumetaError(f"data.reader {name} needs another package: pip install {package}")
    if name.lower() in ("torch/image_folder", "torch/folder"):  # whose splits may be one folder
        raise NeumetaError(f"for class folders leave data.reader ({name}) empty")
    if kind == "torch":
        split = "train" if wanted.split == "train" else "validation"
        return _torchvision(wanted, _created(name, wanted, wanted.root, (split,)))
    found = _created(name, wanted, wanted.root, SPLITS[wanted.split])
    if kind in STREAMS:
        return _streamed(wanted, found)
    numbers = range(len(found.reader))
    listed = tuple(InSet(found.reader, n, f"image {n} of {name}, {wanted.split}") for n in numbers)
    return _labelled(wanted, listed, list(found.reader.iter_targets()), _names(found.reader))


def _files(wanted: Wanted) -> Images:
    """Class folders, or a tar file of them."""
    part = _part(wanted)
    if part.folder.is_file() and part.folder.suffix != ".tar":
        raise NeumetaError(f"{part.folder} is no folder and no .tar file")
    packed = {"cache_tarinfo": False} if part.folder.is_file() else {}  # or it writes beside it
    reader = _created("", wanted, part.folder, ("",), search_split=False, **packed).reader
    listed: list[Path | InTar]
    if packed:
        samples = [(info, outer) for info, _, outer in reader.samples]
        starts = [info.offset_data + (outer.offset_data if outer else 0) for info, outer in samples]
        names = [
            str(Path(outer.name if outer else "", info.path)).lstrip("/") for info, outer in samples
        ]
        sizes = [info.size for info, _ in samples]
        listed = [InTar(part.folder, *each) for each in zip(starts, sizes, names, strict=True)]
        labels = [int(label) for label in reader.targets]
    else:
        listed = [Path(path) for path, _ in reader.samples]
        labels = [label for _, label in reader.samples]
    taken = [n for n, file in enumerate(listed) if part.takes(_place(part, file))]
    part.tell(len(taken), len(listed), wanted.reporter)
    return _labelled(
        wanted, tuple(listed[n] for n in taken), [labels[n] for n in taken], _names(reader)
    )


def _part(wanted: Wanted) -> Part:
    """Where a split is; train.tar and val.tar in a folder are one each."""
    root, split = wanted.root, wanted.split
    if root.is_file():
        apart = wanted.data.test_root is not None
        return Part(root, split, None if apart else wanted.data.test_fraction)
    packed = [root / f"{name}.tar" for name in SPLITS[split]]
    return next((Part(tar, split, None) for tar in packed if tar.is_file()), None) or part_of(
        wanted
    )


def _place(part: Part, file: Path | InTar) -> Path:
    return file if isinstance(file, Path) else part.folder / file.name


def _torchvision(wanted: Wanted, found: Any) -> Images:
    """A set of torchvision, whose labels it holds beside the images, or else with each of them."""
    if (targets := getattr(found, "targets", None)) is None:
        wanted.reporter.start(f"look through {wanted.split} images", len(found))
        targets = []
        for number in range(len(found)):
            targets.append(found[number][1])
            wanted.reporter.advance(1)
        wanted.reporter.finish()
    name = wanted.data.reader
    listed = tuple(
        InSet(found, n, f"image {n} of {name}, {wanted.split}") for n in range(len(found))
    )
    return _labelled(wanted, listed, targets, getattr(found, "classes", ()))


def _streamed(wanted: Wanted, found: Iterable[tuple[Any, Any]]) -> Images:
    """All of a stream, decoded and brought to its size as it comes."""
    from torchvision.transforms.v2.functional import pil_to_tensor

    height, width = wanted.size
    most = wanted.data.in_memory // (4 * height * width)
    prepared = preprocessing_of(wanted.data, wanted.size)
    pixels: list[torch.Tensor] = []
    labels: list[Any] = []
    wanted.reporter.start(f"read {wanted.split} images", getattr(found, "__len__", int)())
    for picture, label in found:
        if len(pixels) == most:
            raise NeumetaError(
                f"{wanted.data.reader} is a stream, and more than {most:,} images do not fit in "
                f"data.in_memory ({wanted.data.in_memory} bytes); raise it, or give a tar file"
            )
        pixels.append(prepared(pil_to_tensor(picture)))
        labels.append(label)
        wanted.reporter.advance(1)
    wanted.reporter.finish()
    if not pixels:
        raise NeumetaError(f"{wanted.data.reader} of {wanted.root} gives no images")
    names = _names(getattr(found, "reader", None))
    return _labelled(wanted, (), labels, names, torch.stack(pixels))


def _labelled(
    wanted: Wanted,
    files: tuple[Path | InTar | InSet, ...],
    labels: Sequence[Any],
    names: Sequence[str],
    pixels: torch.Tensor | None = None,
) -> Images:
    """With the labels that there are; classes without names have numbers."""
    known = wanted.data.labels and all(label is not None for label in labels)
    numbers = torch.tensor([int(label) for label in labels] if known else [0] * len(labels))
    if known and not names:
        count = wanted.data.classes or int(numbers.max()) + 1
        names = [str(n) for n in range(count)]
    classes = tuple(names) if known else ()
    return Images(numbers.long(), classes, pixels, files, wanted.size, labelled=known)


def _names(reader: Any) -> list[str]:
    """Names of classes by number, of a reader that has them."""
    for field in ("class_to_idx", "class_name_to_idx"):
        if numbers := getattr(reader, field, None):
            return sorted((str(name) for name in numbers), key=lambda name: int(numbers[name]))
    return []


def _created(name: str, wanted: Wanted, root: Path, splits: Sequence[str], **given: Any) -> Any:
    """What timm opens, with the first of these names of the split that it knows."""
    from timm.data.dataset_factory import create_dataset

    mode = "L" if wanted.channels == 1 else "RGB"
    reason = ""
    for split in splits:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # readers say what lacks, and raise
                return create_dataset(
                    name, root=str(root), split=split, input_img_mode=mode, **given
                )
        except Exception as error:  # each library behind timm raises its own
            reason = reason or str(error).strip().partition("\n")[0] or type(error).__name__
    raise NeumetaError(f"timm cannot read {name or 'images'} of {root}: {reason}")
