"""Kinds of image files, masks and folders that are easily taken for what they are not."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Told
from PIL import Image

from neumeta_cli.data.decoding import read_image, read_mask
from neumeta_cli.data.settings import DataSection
from neumeta_cli.errors import NeumetaError
from neumeta_cli.tasks import Classification, Segmentation

SIZE = (3, 8, 8)
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["x.webp", "x.WEBP", "webp.png", "gif.png", "gif.jpg"])
def test_files_that_torchvision_has_in_colour_alone_become_grey(name: str, tmp_path: Path) -> None:
    kind = "GIF" if "gif" in name else "WEBP"
    said = {} if kind == "GIF" else {"lossless": True}
    picture = Image.fromarray(COLOURS)
    (picture.quantize(64) if kind == "GIF" else picture).save(tmp_path / name, kind, **said)
    found = read_image(tmp_path / name, grey=True)
    with Image.open(tmp_path / name) as saved:
        assert found[0].tolist() == np.asarray(saved.convert("L")).tolist()
    assert read_image(tmp_path / name, grey=False).shape == (3, 6, 5)


def test_values_of_32_bits_are_not_taken_for_16(tmp_path: Path) -> None:
    """Which would make all of them black where they are below 256."""
    Image.fromarray(COLOURS[..., 0].astype(np.int32)).save(tmp_path / "x.tif")
    with pytest.raises(NeumetaError, match=r"x\.tif: its values may be of 8 or of 16 bits"):
        read_image(tmp_path / "x.tif", grey=True)
    deep = (COLOURS[..., 0].astype(np.uint16) << 8) + 7
    (tmp_path / "x.pgm").write_bytes(b"P5 5 6 65535\n" + deep.astype(">u2").tobytes())
    assert read_image(tmp_path / "x.pgm", grey=True)[0].tolist() == COLOURS[..., 0].tolist()


def shallow_png(path: Path, values: np.ndarray, bits: int) -> None:
    """A grey PNG of fewer than 8 bits, which Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    height, width = values.shape
    rows = []
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8)))
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"".join(rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_masks_of_few_bits_keep_their_class_numbers(bits: int, tmp_path: Path) -> None:
    values = np.arange(30).reshape(6, 5) % 2**bits
    shallow_png(tmp_path / "x.png", values, bits)
    assert read_mask(tmp_path / "x.png", (6, 5)).tolist() == values.tolist()


def test_masks_that_lost_their_class_numbers_are_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 3).save(tmp_path / "x.jpg")
    with pytest.raises(NeumetaError, match=r"x\.jpg is a JPEG, which changes class numbers"):
        read_mask(tmp_path / "x.jpg", (8, 8))


def fill(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / name)


@pytest.mark.parametrize("made", ["__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"])
def test_folders_that_systems_make_are_no_classes(made: str, tmp_path: Path) -> None:
    for name in ("Zebra", "cat"):
        fill(tmp_path / "train" / name, "0.png")
        fill(tmp_path / "train" / name / made, "0.png")
    fill(tmp_path / "train" / made, "0.png")
    images = Classification.load(DataSection(root=str(tmp_path)), "train", SIZE)
    assert images.classes == ("Zebra", "cat")
    assert len(images) == 2


def test_what_is_not_read_is_told(tmp_path: Path) -> None:
    told = Told()
    fill(tmp_path / "train" / "cat", "0.png", "1.gif", "2.GIF", "3.tga")
    fill(tmp_path / "train" / "dog")
    images = Classification.load(DataSection(root=str(tmp_path)), "train", SIZE, told)
    assert (len(images), images.classes) == (1, ("cat", "dog"))
    assert f"class folders of {tmp_path / 'train'} without images: dog" in told.lines
    left_out = f"left out 3 files in {tmp_path / 'train'} that end in .gif, .tga"
    assert left_out in told.lines


def test_what_lies_beside_masks_is_no_mask(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "images", "a.jpg")
    (tmp_path / "train" / "masks").mkdir()
    Image.new("L", (8, 8), 3).save(tmp_path / "train" / "masks" / "a.png")
    for name in ("a.json", "a.txt", "a.xml"):
        (tmp_path / "train" / "masks" / name).write_text("{}")
    data = DataSection(format="mask_folder", root=str(tmp_path), classes=4)
    images = Segmentation.load(data, "train", SIZE)
    assert images.fetch_labels(torch.arange(1)).unique().tolist() == [3]
