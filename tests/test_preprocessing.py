"""A network's own preprocessing: pixel by pixel what timm and torchvision do, kept in all files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision.models as tv_models
import yaml
from conftest import Told
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

import neumeta_cli
from neumeta_cli.checkpoint import Arch, Weights, read_weights, resolve, write_weights
from neumeta_cli.cli.adapting import Asked, adapted, how_to_read
from neumeta_cli.data.images import Images, normalise
from neumeta_cli.data.preprocessing import (
    Preprocessing,
    as_before,
    own_preprocessing,
    preprocessing_of,
    resolved,
)
from neumeta_cli.data.settings import DataSection
from neumeta_cli.errors import NeumetaError

SHAPES = [(300, 420), (411, 260), (224, 224), (90, 70), (256, 341)]  # larger, equal, smaller


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Smooth images with noise, as JPEG and PNG."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = []
    for number, (height, width) in enumerate(SHAPES):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        noisy = np.clip(smooth + rng.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{number}.{'jpg' if number % 2 else 'png'}")
        Image.fromarray(noisy).save(paths[-1])
    return paths


def inputs_of(paths: list[Path], section: DataSection, size: tuple[int, int]) -> Tensor:
    """What a network gets of these files."""
    prepared = preprocessing_of(section, size)
    images = Images(torch.arange(len(paths)), (), None, tuple(paths), size, preprocessing=prepared)
    return normalise(images.fetch(torch.arange(len(paths))), section)


def by(transform, paths: list[Path]) -> Tensor:
    return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])


TIMM = [  # a network, what a recipe says, the same for timm
    ("tf_efficientnet_lite0", {}, {}),
    ("resnet50", {}, {}),
    ("vgg16", {}, {}),
    ("vit_base_patch16_224", {}, {}),
    ("vit_base_patch16_clip_224.openai", {}, {}),
    ("dm_nfnet_f1", {}, {}),
    ("tf_efficientnetv2_b3", {}, {}),
    ("efficientnet_b2", {}, {}),
    ("mobilenetv3_large_100.ra_in1k", {}, {}),
    ("resnet18", {"crop_mode": "border"}, {"crop_mode": "border"}),
    ("resnet18", {"crop_mode": "border", "crop_fraction": 0.9, "mean": [0.5] * 3},
     {"crop_mode": "border", "crop_pct": 0.9, "mean": [0.5] * 3}),
    ("resnet18", {"crop_fraction": 1.15}, {"crop_pct": 1.15}),
    ("resnet18", {"interpolation": "nearest", "crop_fraction": 1.0},
     {"interpolation": "nearest", "crop_pct": 1.0}),
    ("resnet18", {"image_size": (96, 160)}, {"input_size": (3, 96, 160)}),
    ("vit_base_patch16_224", {"image_size": 288, "std": [0.2, 0.3, 0.4]},
     {"input_size": (3, 288, 288), "std": [0.2, 0.3, 0.4]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "said", "told"), TIMM, ids=str)
def test_inputs_are_those_of_timms_own_pipeline(
    name: str, said: dict, told: dict, pictures: list[Path]
) -> None:
    config = resolve_data_config(told, timm.get_pretrained_cfg(name).to_dict())
    arch = resolve(f"timm/{name}")
    own = own_preprocessing(arch, arch.default_input_size())
    section = resolved(DataSection(**said), own)
    found = inputs_of(pictures, section, config["input_size"][1:])
    assert torch.equal(found, by(create_transform(**config), pictures))


@given(
    mode=st.sampled_from(["center", "squash", "border"]),
    size=st.tuples(st.integers(5, 40), st.integers(5, 40)),
    square=st.booleans(),
    fraction=st.floats(0.5, 1.3),
    off=st.tuples(st.integers(-1, 1), st.integers(-1, 1)),
    longer=st.integers(0, 20),
    grey=st.booleans(),
    seed=st.integers(0, 99),
)
def test_images_that_are_cut_alone_are_as_if_timm_had_looked_for_what_to_resize(
    mode: str, size: tuple, square: bool, fraction: float, off: tuple, longer: int, grey: bool,
    seed: int,
) -> None:  # fmt: skip
    """Sides about those that timm resizes to, one of them longer, some of them off by one."""
    size = (size[0], size[0]) if square else size
    sides = [max(1, math.floor(n / fraction) + more) for n, more in zip(size, off, strict=True)]
    sides[seed % 2] += longer
    drawn = np.random.default_rng(seed).integers(0, 256, (*sides, 1 if grey else 3), dtype=np.uint8)
    picture = Image.fromarray(drawn[..., 0] if grey else drawn)
    options = {"interpolation": "bicubic", "crop_pct": fraction, "crop_mode": mode}
    wanted = create_transform(size, normalize=False, mean=(0.5,) * (1 if grey else 3), **options)
    prepared = Preprocessing(size, (0.5,) * (1 if grey else 3), (0.5,), "bicubic", fraction, mode)
    assert torch.equal(prepared(TF.pil_to_tensor(picture)), wanted(picture))


@pytest.mark.parametrize(
    "shape", [(0, 3, 8, 8), (1, 1, 1, 1), (5, 3, 224, 224), (2, 3, 400, 500), (301, 3, 24, 24)]
)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_pieces_are_normalised_to_the_bits_of_the_whole(shape: tuple, order: object) -> None:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)
    pixels = pixels.contiguous(memory_format=order)
    given, channels = pixels.clone(), shape[1]
    own = DataSection(mean=[0.485, 0.456, 0.406][:channels], std=[0.229, 0.224, 0.225][:channels])
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in own.normalisation)
    found = normalise(pixels, own)
    assert torch.equal(found, (given.float() / 255 - mean) / std)
    assert torch.equal(pixels, given)
    assert found.is_contiguous(memory_format=order)


def test_the_networks_that_are_compared_with_timm_differ() -> None:
    configs = [resolve_data_config(t, timm.get_pretrained_cfg(n).to_dict()) for n, _, t in TIMM]
    differ = {name: {str(config[name]) for config in configs} for name in configs[0]}
    assert differ["crop_mode"] == {"center", "squash", "border"}
    assert differ["interpolation"] == {"nearest", "bilinear", "bicubic"}
    assert min(len(differ[name]) for name in ("input_size", "mean", "std", "crop_pct")) >= 3
    assert len({str(config) for config in configs}) == len(TIMM)


TORCHVISION = {
    "resnet18": "ResNet18_Weights.IMAGENET1K_V1",
    "resnet50": "ResNet50_Weights.IMAGENET1K_V2",
    "efficientnet_b0": "EfficientNet_B0_Weights.IMAGENET1K_V1",
    "efficientnet_b1": "EfficientNet_B1_Weights.IMAGENET1K_V2",
    "swin_v2_t": "Swin_V2_T_Weights.IMAGENET1K_V1",
    "inception_v3": "Inception_V3_Weights.IMAGENET1K_V1",
    "convnext_tiny": "ConvNeXt_Tiny_Weights.IMAGENET1K_V1",
}


@pytest.mark.parametrize(("name", "weights"), TORCHVISION.items())
def test_inputs_are_those_of_torchvisions_presets(
    name: str, weights: str, pictures: list[Path]
) -> None:
    preset = tv_models.get_weight(weights).transforms()
    arch = Arch(f"torchvision/{name}")
    size = preset.crop_size[0]
    section = resolved(DataSection(), own_preprocessing(arch, (3, size, size)))
    assert torch.equal(inputs_of(pictures, section, (size, size)), by(preset, pictures))


def test_every_network_of_torchvision_is_resized_to_the_side_that_its_preset_has() -> None:
    for name in tv_models.list_models(module=tv_models):
        preset = tv_models.get_model_weights(name).DEFAULT.transforms()
        own = own_preprocessing(Arch(f"torchvision/{name}"), (3, 224, 224))
        assert int(preset.crop_size[0] / own.crop_fraction) == preset.resize_size[0]
        assert (list(own.mean), own.interpolation) == (preset.mean, preset.interpolation.value)


def test_a_file_of_torchvision_tells_by_its_name_which_weights_it_has() -> None:
    first = tv_models.ResNet50_Weights.IMAGENET1K_V1
    arch, size = Arch("torchvision/resnet50"), (3, 224, 224)
    own = own_preprocessing(arch, size, path=Path("weights") / first.url.rpartition("/")[2])
    assert own.crop_fraction == 224 / 256
    assert own_preprocessing(arch, size, path=Path("mine.pth")).crop_fraction < 224 / 231
    assert "IMAGENET1K_V1" in own.describe()


def test_a_recipe_overrides_field_by_field_and_the_line_says_so() -> None:
    own = own_preprocessing(Arch("timm/tf_efficientnet_lite0"), (3, 224, 224))
    told = Told()
    assert resolved(DataSection(), own, told).interpolation == "bicubic"
    assert told.lines == [
        "preprocessing: 224×224, bicubic, crop 0.875, mean 0.5, std 0.5 (timm)",
    ]
    section = resolved(DataSection(mean=[0.1, 0.2, 0.3], crop_mode="squash"), own, told)
    assert section.mean == [0.1, 0.2, 0.3]
    assert (section.std, section.crop_fraction) == ([0.5] * 3, 0.875)
    assert "crop 0.875 (squash), mean 0.1/0.2/0.3, std 0.5" in told.lines[1]
    assert told.lines[1].endswith("(timm; mean, crop mode: the recipe)")
    again = resolved(section, own_preprocessing(Arch("torchvision/resnet18"), (3, 32, 32)))
    assert again == section  # nothing is left open


def test_what_a_file_says_goes_before_what_its_architecture_has() -> None:
    arch, size = Arch("timm/tf_efficientnet_lite0"), (3, 224, 224)
    own = own_preprocessing(arch, size, {"mean": [0.1] * 3, "of_tomorrow": 1})
    assert (own.mean, own.std) == ((0.1,) * 3, (0.5,) * 3)
    with pytest.raises(NeumetaError, match=r"net\.safetensors has a damaged preprocessing"):
        own_preprocessing(arch, size, {"crop_mode": "round"}, Path("net.safetensors"))


def test_networks_of_ones_own_and_files_of_before_are_prepared_as_ever(
    pictures: list[Path],
) -> None:
    """The short side to 8/7 of the crop, bilinear, nothing where the size is right already."""
    before = as_before(DataSection(mean=[0.5] * 3, std=[0.25] * 3))
    assert before.mean == [0.5] * 3
    own = own_preprocessing(Arch("package.module:factory"), (3, 96, 96))
    section = resolved(DataSection(), own)
    assert section.crop_mode == before.crop_mode == "cover"
    image = TF.pil_to_tensor(Image.open(pictures[0]))  # 300×420
    wanted = TF.center_crop(TF.resize(image, [110, 154], antialias=True), [96, 96])
    assert torch.equal(Preprocessing((96, 96))(image), wanted)
    assert torch.equal(Preprocessing((300, 420))(image), image)
    small = TF.pil_to_tensor(Image.open(pictures[3]).convert("RGB"))  # 90×70
    wanted = TF.center_crop(TF.resize(small, [123, 96], antialias=True), [96, 96])
    assert torch.equal(Preprocessing((96, 96))(small), wanted)


def test_runs_and_manifolds_of_before_are_not_given_what_their_network_would_have(
    tmp_path: Path,
) -> None:
    kept = {"format": "image_folder", "mean": [0.1] * 3, "std": [0.2] * 3}
    recipe = {"name": "old", "model": {"arch": "timm/resnet50"}, "data": kept}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    begun = adapted(str(tmp_path / "recipe.yaml"), None, of_a_run=True).data
    own = own_preprocessing(Arch("timm/resnet50"), (3, 224, 224))
    section, _, by = how_to_read(Asked(data=str(tmp_path)), {"data": kept}, False)
    read = resolved(section, own, Told(), by)
    for section in (begun, read):
        assert (section.mean, section.std) == ([0.1] * 3, [0.2] * 3)
        assert (section.interpolation, section.crop_fraction) == ("bilinear", 0.875)
        assert section.crop_mode == "cover"
    fresh = adapted(str(tmp_path / "recipe.yaml"), None).data
    assert resolved(fresh, own).crop_mode == "center"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten classes of two colours' mixtures, three images each, none of the network's size."""
    rng = np.random.default_rng(1)
    for label in range(10):
        for number in range(3):
            path = tmp_path / "images" / f"class{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(30, 0).repeat(30, 1)
            Image.fromarray(pixels).save(path)
    return tmp_path / "images"


def test_eval_measures_what_timms_pipeline_gives(neumeta, folder: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=10).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(50)
    told = {"kind": "checkpoint", "arch": {"name": "timm/test_efficientnet", "kwargs": {}}}
    told["arch"]["kwargs"]["num_classes"] = 10
    write_weights(Path("net.safetensors"), Weights(model.state_dict(), told))
    paths = sorted(folder.rglob("*.png"))
    x = by(create_transform(**resolve_data_config({}, model=model)), paths)
    with torch.no_grad():
        found = model(x).argmax(1)
    labels = torch.arange(10).repeat_interleave(3)
    options = ("--data", folder, "--no-latency", "--json", "m.json")
    measured = neumeta("eval", "net.safetensors", *options)
    assert measured.code == 0, measured
    assert "160×160, bicubic, crop 0.95, mean 0.485/0.456/0.406, std" in measured.stderr
    row = json.loads(Path("m.json").read_text())
    assert row["test_images"] == 30  # all of them, as nothing was fitted to any
    wanted = float((found == labels).float().mean())
    assert row["rows"][0]["metrics"]["top-1"] == pytest.approx(wanted)


RECIPE = {
    "name": "mine",
    "model": {"arch": "lenet"},
    "scope": "all",
    "permute": {"solver": "greedy"},
    "data": {"mean": [0.25], "crop_mode": "squash", "interpolation": "bicubic"},
    "inr": {"kind": "selected"},
    "fit": {"epochs": 1, "batch_size": 8, "precision": "float32"},
    "train": {"epochs": 1, "batch_size": 8, "precision": "float32"},
    "eval": {"watch": 0, "gammas": [0.5]},
}
KEPT = {
    "mean": [0.25],
    "std": [0.3081],
    "interpolation": "bicubic",
    "crop_fraction": 0.875,
    "crop_mode": "squash",
}


@pytest.mark.slow
def test_all_files_keep_what_was_taken_and_all_commands_take_it(neumeta, folder: Path) -> None:
    """Train, fit, export and eval; the recipe is said to the first two alone."""
    Path("mine.yaml").write_text(yaml.safe_dump(RECIPE), "utf-8")
    line = "28×28, bicubic, crop 0.875 (squash), mean 0.25, std 0.3081"
    options = ("--recipe", "mine.yaml", "--data", folder)
    trained = neumeta("train", *options, "-o", "net.safetensors")
    assert trained.code == 0, trained
    assert f"{line} (neumeta's network; mean, interpolation, crop mode: the recipe)" in (
        trained.stderr.replace("\n", " ")
    )
    metadata = read_weights(Path("net.safetensors")).metadata
    assert metadata["preprocessing"] == KEPT
    measured = neumeta("eval", "net.safetensors", "--data", folder, "--no-latency")
    assert f"{line} (the file)" in measured.stderr
    fitted = neumeta("fit", *options, "--checkpoint", "net.safetensors", "--run", "run")
    assert fitted.code == 0, fitted
    assert line in fitted.stderr
    written = yaml.safe_load(Path("run/recipe.yaml").read_text("utf-8"))["data"]
    manifold = neumeta_cli.load("run/manifold.safetensors")
    for kept in (written, manifold.provenance.recipe["data"]):
        assert {name: kept[name] for name in KEPT} == KEPT
    told = neumeta(
        *("export", "run/manifold.safetensors", "--width", "0.5", "-o", "half.pt"),
        *("--data", folder, "--json", "e.json"),
    )
    assert f"{line} (the file)" in told.stderr
    kept = read_weights(Path("half.pt")).metadata["data"]  # what .onnx and .pt2 have, too
    assert {name: kept[name] for name in KEPT} == KEPT
    last = neumeta("eval", "half.pt", "--data", folder, "--no-latency", "--json", "m.json")
    assert f"{line} (the file)" in last.stderr
    top = json.loads(Path("m.json").read_text())["rows"][0]["metrics"]["top-1"]
    assert json.loads(Path("e.json").read_text())["metrics"]["top-1"] == top
    table = json.loads(Path("run/report/table.json").read_text())["rows"]
    assert top in [row["metrics"]["top-1"] for row in table if row["gamma"] == 0.5]
