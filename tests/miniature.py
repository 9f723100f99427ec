"""Data sets of a few images in the layouts of the real ones."""

import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image

rng = np.random.default_rng(0)


def picture(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


def mask(path: Path, height: int, width: int, classes: int, ignored: int) -> None:
    """A palette image, as VOC has them: classes in stripes, and a border that does not count."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = (np.arange(width) * classes // width).astype(np.uint8)[None].repeat(height, 0)
    values[:2] = ignored
    image = Image.fromarray(values, mode="P")
    image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tolist())
    image.save(path)


def image_folder(root: Path, classes: int = 2, count: int = 6, size: int = 40) -> Path:
    for split in ("train", "val"):
        for label in range(classes):
            for i in range(count):
                picture(root / split / f"class{label:03}" / f"{i}.jpg", size, size + 8)
    return root


def mnist(root: Path, count: int = 24) -> Path:
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        head = struct.pack(">IIII", 2051, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">II", 2049, count)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    return root


def cifar100(root: Path, count: int = 20) -> Path:
    """As published but for the checksums, which torchvision compares before it reads."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        entry = {"data": pixels, "fine_labels": [i % 100 for i in range(count)]}
        (folder / part).write_bytes(pickle.dumps(entry))
    names = {"fine_label_names": [f"class{i}" for i in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(names))
    return root


def voc(root: Path, augmented: bool) -> Path:
    base = root / "VOCdevkit" / "VOC2012"
    sets = base / "ImageSets" / "Segmentation"
    sets.mkdir(parents=True)
    for split, names in (("train", ["a", "b", "c"]), ("val", ["d", "e"])):
        (sets / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            picture(base / "JPEGImages" / f"{name}.jpg", 50, 70)
            mask(base / "SegmentationClass" / f"{name}.png", 50, 70, 21, 255)
    if augmented:
        (sets / "trainaug.txt").write_text("a\nb\nc\nf\n")
        for name in "abcf":
            mask(base / "SegmentationClassAug" / f"{name}.png", 50, 70, 21, 255)
        picture(base / "JPEGImages" / "f.jpg", 50, 70)
    return root


def mask_folder(root: Path, classes: int = 11, ignored: int = 11) -> Path:
    for split, count in (("train", 4), ("test", 2)):
        for i in range(count):
            picture(root / split / "images" / f"{i}.png", 36, 48)
            mask(root / split / "masks" / f"{i}.png", 36, 48, classes, ignored)
    return root


def celeba(root: Path) -> Path:
    """As published but for the checksums, which torchvision compares before it reads."""
    folder = root / "celeba"
    names = [f"{i:06}.jpg" for i in range(1, 9)]
    for name in names:
        picture(folder / "img_align_celeba" / name, 109, 89)
    columns = {
        "identity_CelebA.txt": (0, 1),
        "list_eval_partition.txt": (0, None),
        "list_attr_celeba.txt": (2, 40),
        "list_bbox_celeba.txt": (2, 4),
        "list_landmarks_align_celeba.txt": (2, 10),
    }
    for file, (header, count) in columns.items():
        lines = [str(len(names)), " ".join(f"c{i}" for i in range(count or 1))][:header]
        for number, name in enumerate(names):
            split = [0, 0, 0, 0, 1, 1, 2, 2][number]
            values = [split] if count is None else [1] * count
            lines.append(" ".join([name, *map(str, values)]))
        (folder / file).write_text("\n".join(lines) + "\n")
    return root
