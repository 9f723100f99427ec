"""Images as people have them: folders without a split or labels, any kind of file, broken ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import Told
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import neumeta_cli
from neumeta_cli.data import Images
from neumeta_cli.data.decoding import read_image, read_mask
from neumeta_cli.data.folders import Part
from neumeta_cli.data.settings import DataSection
from neumeta_cli.errors import NeumetaError
from neumeta_cli.tasks import Classification, Segmentation, load_task

SIZE = (3, 8, 8)


def picture(path: Path, colour: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (colour, 0, 255 - colour)).save(path)
    return path


def classes(root: Path, names: list[str], count: int) -> Path:
    for label, name in enumerate(names):
        for number in range(count):
            picture(root / name / f"{number}.png", 10 * label + number)
    return root


def read(root: Path, split: str, told: Told | None = None, **said: object) -> Images:
    return Classification.load(DataSection(root=str(root), **said), split, SIZE, told)


def names(images: Images) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in images.files}


def test_class_folders_without_a_split_are_split_and_it_is_said(tmp_path: Path) -> None:
    root, told = classes(tmp_path / "mine", ["cat", "dog"], 50), Told()
    train, test = read(root, "train", told), read(root, "test", told)
    assert names(train) | names(test) == {f"{c}/{n}.png" for c in ("cat", "dog") for n in range(50)}
    assert not names(train) & names(test)
    assert 8 <= len(test) <= 32  # of 100, about 20
    assert train.classes == test.classes == ("cat", "dog")
    assert [test.classes[k] for k in test.labels] == [f.parent.name for f in test.files]
    assert len(told.lines) == 1
    assert f"{len(test)} of 100 images" in told.lines[0]
    assert "data.test_fraction: 0.2" in told.lines[0]
    assert 35 <= len(read(root, "test", test_fraction=0.5)) <= 65


def test_the_split_depends_on_names_alone(tmp_path: Path) -> None:
    """Not on the folder's place, its other images or their pixels; it is this one for good."""
    first = names(read(classes(tmp_path / "a", ["cat", "dog"], 30), "test"))
    again = names(read(classes(tmp_path / "b" / "c", ["cat", "dog", "owl"], 40), "test"))
    assert first == {n for n in again if n in names_up_to(30)}
    assert sorted(n for n in first if n in names_up_to(10)) == SEEN


SEEN = ["cat/0.png", "cat/5.png", "cat/7.png", "cat/8.png"]
SEEN += ["dog/5.png", "dog/7.png", "dog/8.png"]


def names_up_to(count: int) -> set[str]:
    return {f"{name}/{number}.png" for name in ("cat", "dog") for number in range(count)}


@given(st.lists(st.text("abcdef/é0", min_size=1), unique=True), st.floats(0.01, 0.98))
def test_a_larger_fraction_takes_more_and_gives_none_back(listed: list[str], low: float) -> None:
    root = Path("/images")
    paths = [root / name.strip("/") for name in listed if name.strip("/")]
    few, more = Part(root, "test", low), Part(root, "test", low + 0.01)
    rest = Part(root, "train", low)
    for path in paths:
        assert few.takes(path) != rest.takes(path)
        assert more.takes(path) or not few.takes(path)


@pytest.mark.parametrize("test", ["test", "testing", "val", "valid", "validation"])
def test_a_split_may_have_any_usual_name(test: str, tmp_path: Path) -> None:
    classes(tmp_path / "train", ["cat", "dog"], 3)
    classes(tmp_path / test, ["cat", "dog"], 2)
    assert (len(read(tmp_path, "train")), len(read(tmp_path, "test"))) == (6, 4)


def test_half_a_split_is_refused_with_a_way_out(tmp_path: Path) -> None:
    classes(tmp_path / "train", ["cat", "dog"], 3)
    with pytest.raises(NeumetaError, match=r"has no test/ or .*--test-data"):
        read(tmp_path, "test")
    other = classes(tmp_path / "other", ["cat", "dog"], 2)
    assert len(read(tmp_path, "test", test_root=str(other))) == 4
    assert len(read(tmp_path, "train", test_root=str(other))) == 6


def test_a_folder_of_test_images_leaves_all_others_to_training(tmp_path: Path) -> None:
    root, other = classes(tmp_path / "a", ["x", "y"], 9), classes(tmp_path / "b", ["x", "y"], 4)
    assert len(read(root, "train", test_root=str(other))) == 18
    assert len(read(root, "test", test_root=str(other))) == 8


def test_hidden_files_and_folders_are_no_images_and_no_classes(tmp_path: Path) -> None:
    root = classes(tmp_path, ["cat", "dog"], 3)
    picture(root / ".ipynb_checkpoints" / "0-checkpoint.png")
    picture(root / "cat" / ".thumbnails" / "0.png")
    (root / "dog" / "._0.png").write_bytes(b"of a Mac")
    train, test = read(root, "train"), read(root, "test")
    assert train.classes == ("cat", "dog")
    assert len(train) + len(test) == 6


def test_numbers_as_class_names_are_pointed_out_where_their_order_is_in_doubt(
    tmp_path: Path,
) -> None:
    root, told = classes(tmp_path / "a", [str(n) for n in range(12)], 9), Told()
    by_text, by_number = read(root, "test", told), read(root, "test", class_order="number")
    assert by_text.classes[:4] == ("0", "1", "10", "11")
    assert by_number.classes == tuple(str(n) for n in range(12))
    folders = [f.parent.name for f in by_number.files]
    assert [by_number.classes[k] for k in by_number.labels] == folders
    assert any("0, 1, 10, 11" in t and "data.class_order=number" in t for t in told.lines)
    told = Told()
    read(classes(tmp_path / "b", ["00", "01", "02", "10"], 9), "test", told)
    read(classes(tmp_path / "c", ["1", "10", "2", "two"], 9), "test", told)
    assert not any("class_order" in line for line in told.lines)


class Scores(nn.Module):
    """A network of as many classes as it is told."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 64, count)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1))


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["a"], ["one class, a", "data.labels=false"]),
        (["a", "b", "c"], ["3 classes (a, b, c)", "gives 4 scores", "data.labels=false"]),
        ([f"k{n}" for n in range(5)], ["5 classes (k0, k1, k2, …)", "gives 4 scores"]),
    ],
)
def test_classes_that_are_not_the_networks_are_told_apart(
    folders: list[str], words: list[str], tmp_path: Path
) -> None:
    for name in folders:
        picture(tmp_path / "test" / name / "0.png")
    with pytest.raises(NeumetaError) as caught:
        load_task(DataSection(root=str(tmp_path)), Scores(4), SIZE, train=False)
    assert all(word in str(caught.value) for word in words)


def test_splits_of_other_classes_name_one_that_differs(tmp_path: Path) -> None:
    classes(tmp_path / "train", ["cat", "dog"], 2)
    classes(tmp_path / "test", ["cat", "hound"], 2)
    with pytest.raises(NeumetaError, match="'dog' is in one of them only"):
        load_task(DataSection(root=str(tmp_path)), Scores(2), SIZE)


def test_fewer_test_images_than_classes_are_a_warning(tmp_path: Path) -> None:
    classes(tmp_path / "train", ["a", "b", "c"], 2)
    classes(tmp_path / "test", ["a", "b"], 1)
    (tmp_path / "test" / "c").mkdir()
    told = Told()
    load_task(DataSection(root=str(tmp_path)), Scores(3), SIZE, reporter=told)
    assert any("warning: 2 test images for 3 classes" in line for line in told.lines)


@pytest.mark.parametrize("place", [".", "train", "2021/05", "a"])
def test_a_folder_without_images_says_so(place: str, tmp_path: Path) -> None:
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / place / "notes.txt").write_text("none here")
    with pytest.raises(NeumetaError, match="holds no images"):
        read(tmp_path, "train")


def test_images_without_labels_are_read_from_wherever_they_lie(tmp_path: Path) -> None:
    for number in range(20):
        picture(tmp_path / "flat" / f"{number}.png")
        picture(tmp_path / "deep" / "2021" / str(number % 2) / f"{number}.png")
    for root, said in (("flat", {}), ("deep", {"labels": False})):
        parts = [read(tmp_path / root, split, **said) for split in ("train", "test")]
        assert sum(len(part) for part in parts) == 20
        assert not any(part.labelled or part.classes for part in parts)


KINDS = {  # how a file is made of RGB values of 0 to 255
    "deep.png": lambda v: Image.fromarray(v[..., 0].astype(np.uint16) * 257),
    "deep.tif": lambda v: Image.fromarray(v[..., 0].astype(np.uint16) * 257),
    "deep.pgm": lambda v: Image.fromarray(v[..., 0].astype(np.uint16) * 257),
    "long.tif": lambda v: Image.fromarray(v[..., 0].astype(np.int32) * 257),
    "grey.png": lambda v: Image.fromarray(v[..., 0]),
    "rgba.png": lambda v: Image.fromarray(np.dstack([v, v[..., 0]])),
    "palette.png": lambda v: Image.fromarray(v).quantize(256),
    "palette.bmp": lambda v: Image.fromarray(v).quantize(256),
    "plain.tiff": lambda v: Image.fromarray(v),
    "plain.ppm": lambda v: Image.fromarray(v),
    "plain.BMP": lambda v: Image.fromarray(v),
    "cmyk.tif": lambda v: Image.fromarray(v).convert("CMYK"),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("grey", [False, True])
def test_any_kind_of_file_gives_its_values(name: str, grey: bool, tmp_path: Path) -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    values = blocks.repeat(6, 0).repeat(5, 1)
    if name.startswith(("deep", "long", "grey")):
        values[..., 1:] = values[..., :1]
    KINDS[name](values).save(tmp_path / name)
    wanted = torch.from_numpy(values).permute(2, 0, 1)
    if grey:
        luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
        wanted = (wanted * luma).sum(0, keepdim=True).round().to(torch.uint8)
    found = read_image(tmp_path / name, grey)
    assert (found.shape, found.dtype) == (wanted.shape, torch.uint8)
    assert int((found.int() - wanted.int()).abs().max()) <= (1 if grey else 0)


def test_print_colours_of_a_jpeg_are_what_pillow_has(tmp_path: Path) -> None:
    values = np.full((16, 16, 3), (200, 60, 30), dtype=np.uint8)
    Image.fromarray(values).convert("CMYK").save(tmp_path / "x.jpg", quality=95)
    found = read_image(tmp_path / "x.jpg", grey=False).permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - values).max() <= 6


def test_values_of_no_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(NeumetaError, match=r"x\.tif: its values are fractions"):
        read_image(tmp_path / "x.tif", grey=False)
    Image.fromarray(np.full((4, 4), 1 << 20, dtype=np.int32)).save(tmp_path / "y.tif")
    with pytest.raises(NeumetaError, match=r"y\.tif: its values are not of 8 or 16 bits"):
        read_image(tmp_path / "y.tif", grey=False)


def broken(root: Path) -> Path:
    """Two classes of ten images, three of them cut, empty or no images at all."""
    classes(root, ["cat", "dog"], 10)
    cut = root / "cat" / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        cut
    )
    cut.write_bytes(cut.read_bytes()[:900])
    (root / "cat" / "empty.png").write_bytes(b"")
    (root / "dog" / "text.webp").write_text("<html>not found</html>")
    return root


def test_a_broken_image_is_named_or_left_out_and_counted(tmp_path: Path) -> None:
    root, told = broken(tmp_path / "a"), Told()
    alone = {"test_root": str(classes(tmp_path / "b", ["cat", "dog"], 1))}
    with pytest.raises(NeumetaError, match=r"cannot read image .*(cut|empty|text).*--skip-broken"):
        read(root, "train", **alone)
    images = read(root, "train", told, skip_broken=True, **alone)
    assert names(images) == {f"{c}/{n}.png" for c in ("cat", "dog") for n in range(10)}
    assert images.labels.tolist() == [0] * 10 + [1] * 10
    line = next(line for line in told.lines if "left out" in line)
    assert "left out 3 broken training images of 23" in line
    assert all(name in line for name in ("cut.jpg", "empty.png", "text.webp"))


def test_masks_of_more_than_8_bits_keep_their_classes_or_are_refused(tmp_path: Path) -> None:
    values = np.array([[0, 1], [2, 11]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "low.png")
    assert read_mask(tmp_path / "low.png", (2, 2)).tolist() == values.tolist()
    Image.fromarray(values + 256).save(tmp_path / "high.png")
    with pytest.raises(NeumetaError, match=r"high\.png has class 267"):  # not class 11
        read_mask(tmp_path / "high.png", (2, 2))
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(NeumetaError, match="no mask"):
        read_mask(tmp_path / "x.tif", (2, 2))
    (tmp_path / "cut.png").write_bytes((tmp_path / "low.png").read_bytes()[:40])
    with pytest.raises(NeumetaError, match=r"cannot read mask .*cut\.png.*--skip-broken"):
        read_mask(tmp_path / "cut.png", (2, 2))


def test_masks_without_a_split_go_with_their_images(tmp_path: Path) -> None:
    for number in range(30):
        picture(tmp_path / "images" / f"{number}.jpg")
        mask = tmp_path / "masks" / f"{number}.png"
        mask.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), number).save(mask)
    (tmp_path / "masks" / "._0.png").write_bytes(b"of a Mac")
    data = DataSection(format="mask_folder", root=str(tmp_path), classes=30)
    parts = [Segmentation.load(data, split, SIZE) for split in ("train", "test")]
    assert sorted(len(part) for part in parts)[0] > 0
    assert sum(len(part) for part in parts) == 30
    for part in parts:
        found = part.fetch_labels(torch.arange(len(part)))[:, 0, 0].tolist()
        assert found == [int(path.stem) for path in part.files]


RECIPE = {
    "name": "mine",
    "model": {"arch": "lenet_digits"},
    "scope": "all",
    "permute": {"solver": "greedy"},
    "inr": {"kind": "selected"},
    "fit": {"epochs": 1, "batch_size": 8, "precision": "float32"},
    "eval": {"watch": 5, "gammas": [0.5]},
}


@pytest.fixture
def unlabelled(tmp_path: Path, build) -> tuple[object, ...]:
    """A network, a recipe, and images of which nobody knows what they show."""
    torch.save(build("lenet_digits")[0].state_dict(), tmp_path / "net.pth")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(RECIPE), "utf-8")
    for number in range(40):
        picture(tmp_path / "images" / f"{number}.png", 6 * number)
    return ("--recipe", "mine.yaml", "--data", "images")


@pytest.mark.slow
def test_images_without_labels_are_enough_to_fit(neumeta, unlabelled) -> None:
    """By distillation alone; what cannot be measured is said, and neither in table nor picture."""
    fitted = neumeta("fit", *unlabelled, "--checkpoint", "net.pth", "--run", "run")
    assert fitted.code == 0, fitted
    assert "training images without labels" in fitted.stderr
    assert "top-1, top-5 cannot be measured" in fitted.stderr
    table = json.loads(Path("run/report/table.json").read_text("utf-8"))
    assert table["metrics"] == []
    assert [row["metrics"] for row in table["rows"]] == [{}] * len(table["rows"])
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert any("distill" in line for line in lines)
    assert not any("task" in line for line in lines)
    assert neumeta_cli.load("run/manifold.safetensors").sample(0.5) is not None
    assert "its test images have no labels" in neumeta("report", "run").stderr


@pytest.mark.slow
def test_labels_of_other_images_measure_a_fit_without_labels(neumeta, unlabelled) -> None:
    classes(Path("labelled"), [f"digit{n}" for n in range(10)], 2)
    options = (*unlabelled, "--test-data", "labelled", "--skip-broken")
    Path("images/broken.png").write_bytes(b"")
    fitted = neumeta(
        "distill", "net.pth", "--arch", "lenet_digits", *options, "-o", "m.safetensors"
    )
    assert fitted.code == 0, fitted
    assert "left out 1 broken training image of 41: broken.png" in fitted.stderr
    assert "40 training images without labels" in fitted.stderr
    assert "cannot be measured" not in fitted.stderr
    for option in ("--test-data", "--data"):
        told = neumeta("eval", "m.safetensors", option, "labelled", "--no-latency", "--json", "j")
        assert told.code == 0, told
        count = json.loads(Path("j").read_text("utf-8"))["test_images"]
        assert (count == 20) == (option == "--test-data")  # else those that a fit would test on


@pytest.mark.parametrize("command", ["train", "compare"])
def test_what_needs_labels_says_so(command: str, neumeta, unlabelled) -> None:
    more = ("-o", "x.pth") if command == "train" else ("--checkpoint", "net.pth", "--run", "run")
    refused = neumeta(command, *unlabelled, *more)
    assert refused.code == 1
    assert "needs training images with labels" in refused.stderr
    task_alone = neumeta(
        *("fit", *unlabelled, "--checkpoint", "net.pth", "--run", "run"),
        *("--set", "loss.distill=0"),
    )
    assert "a fit with loss.distill: 0 needs training images with labels" in task_alone.stderr


@pytest.mark.slow
def test_methods_that_follow_the_checkpoint_are_compared_without_labels(
    neumeta, unlabelled
) -> None:
    """Those that train on labels, or look at the loss, are refused by name."""
    classes(Path("labelled"), [f"digit{n}" for n in range(10)], 2)
    asked = ("compare", *unlabelled, "--checkpoint", "net.pth", "--run", "run")
    asked += ("--set", "data.test_root=labelled", "--methods")
    refused = neumeta(*asked, "neumeta,individual,taylor")
    wanted = "a comparison with individual, taylor needs training images with labels"
    assert wanted in refused.stderr
    found = neumeta(*asked, "neumeta,distilled,us_net,l1")
    assert found.code == 0, found
    methods = json.loads(Path("run/compare.json").read_text("utf-8"))["methods"]
    assert [m["method"] for m in methods] == ["neumeta", "distilled", "us_net", "l1"]
    assert all("top-1" in row["metrics"] for method in methods for row in method["rows"])
