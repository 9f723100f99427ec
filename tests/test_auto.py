"""The automatic recipe: what is chosen for a network and a folder of images, and that it runs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Told
from test_cli import fails

from neumeta_cli.checkpoint import Arch, load_checkpoint, resolve
from neumeta_cli.cli.sizing import at_size_of
from neumeta_cli.data import Images, find_images
from neumeta_cli.data.decoding import read_image
from neumeta_cli.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from neumeta_cli.data.settings import DataSection
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import load_manifold
from neumeta_cli.pipeline import preprocessing_for
from neumeta_cli.recipe import Recipe, auto_recipe, load_recipe, suited
from neumeta_cli.recipe.auto import (
    ATTENTION,
    CONVOLUTIONS,
    DEPTHS,
    GROUPED,
    NEITHER,
    NOT_MIXED,
)
from neumeta_cli.resize import Frame, open_frame

SMALL = {  # a network of each family, and the base that serves it
    "cifar_resnet20": CONVOLUTIONS,
    "timm/test_efficientnet": GROUPED,
    "timm/test_vit": ATTENTION,
    "timm/test_convnext": ATTENTION,
    "lenet_digits": CONVOLUTIONS,
}


def chosen_for(name: str, folder: Path, images: int = 5000, **options):
    path = folder / "net.safetensors"
    arch = resolve(name)
    torch.manual_seed(0)
    torch.save(arch.build("cpu").state_dict(), path.with_suffix(".pth"))
    checkpoint = load_checkpoint(path.with_suffix(".pth"), arch)
    frame = open_frame(checkpoint.model, checkpoint.input_size)
    return auto_recipe(checkpoint, frame, images, {"root": str(folder)}, **options)


@pytest.mark.parametrize("name", SMALL)
def test_a_family_has_its_base_and_each_choice_a_reason(name: str, tmp_path: Path) -> None:
    found = chosen_for(name, tmp_path)
    assert found.own["base"] == SMALL[name]
    assert found.recipe.scope == "all"
    assert any(reason.startswith(f"base {SMALL[name]}: ") for reason in found.reasons)
    for field in ("fit.epochs", "fit.batch_size"):
        assert any(field in reason for reason in found.reasons)
    assert ("norm" in found.own) == any("norm.images" in reason for reason in found.reasons)
    assert ("flip" in found.own["data"]) == (found.recipe.model.input_size[0] == 3)


def test_a_saved_recipe_is_the_same_recipe(tmp_path: Path) -> None:
    said = ["fit.epochs=3", "inr.kind=factorised", "inr.hidden=16", "loss.hint=0"]
    found = chosen_for("cifar_resnet20", tmp_path, overrides=said)
    file = tmp_path / "kept.yaml"
    file.write_text(found.as_yaml(), "utf-8")
    assert load_recipe(str(file)) == found.recipe
    assert found.recipe.fit.epochs == 3
    assert found.recipe.inr.kind == "factorised"
    assert not any("fit.epochs" in reason for reason in found.reasons)  # asked for, not chosen
    with pytest.raises(NeumetaError, match=r"fit.epohs.*did you mean fit.epochs"):
        chosen_for("cifar_resnet20", tmp_path, overrides=["fit.epohs=3"])


@pytest.mark.parametrize("images", [1, 40, 700, 50_000, 1_281_167])
def test_steps_are_about_as_many_for_any_number_of_images(tmp_path: Path, images: int) -> None:
    fit = chosen_for("cifar_resnet20", tmp_path, images).recipe.fit
    assert 1 <= fit.batch_size <= images
    steps = fit.epochs * max(1, images // fit.batch_size)
    if 4000 <= images <= 200_000:
        assert 1800 <= steps <= 3000
    assert fit.epochs <= 60
    if images == 50_000:  # as the recipe by hand
        shipped = load_recipe("cifar10_resnet20_all").fit
        assert (fit.batch_size, fit.epochs) == (shipped.batch_size, shipped.epochs)


def test_the_recipe_by_hand_for_the_same_network_says_the_same(tmp_path: Path) -> None:
    found = chosen_for("cifar_resnet20", tmp_path, 50_000).recipe
    shipped = load_recipe("cifar10_resnet20_all")
    for section in ("loss", "noise", "permute"):
        assert getattr(found, section) == getattr(shipped, section)
    assert shipped.inr.store == "compact"
    assert found.inr.model_copy(update={"store": "compact"}) == shipped.inr
    assert found.fit.depths == DEPTHS  # which changes nothing of width
    assert found.fit.model_copy(update={"depths": None}) == shipped.fit


def test_a_network_that_is_neither_has_the_base_of_all(tmp_path: Path) -> None:
    module = tmp_path / "perceptron_module.py"
    module.write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        arch = resolve("perceptron_module:make")
        path = tmp_path / "own.pth"
        torch.save(arch.build("cpu").state_dict(), path)
        checkpoint = load_checkpoint(path, arch, (1, 8, 8))
        frame = open_frame(checkpoint.model, checkpoint.input_size)
        assert auto_recipe(checkpoint, frame, 500, {}).own["base"] == NEITHER


def test_what_a_network_does_not_run_with_is_left_out_and_told(build, monkeypatch) -> None:
    model, arch = build("timm/test_vit")
    frame = open_frame(model.to("meta"), arch.default_input_size())
    bare, told = Recipe.model_validate({"name": "x", "model": {"arch": arch.name}}), Told()
    assert suited(bare, frame, told) is bare  # it runs: nothing is said
    assert not told.lines
    monkeypatch.setattr(Frame, "linked", property(lambda frame: [[n] for n in frame.scope]))
    found = suited(bare, frame, told)  # heads of queries and keys that differ do not
    assert found.fit.mixed == 0 < bare.fit.mixed
    assert found.model_copy(update={"fit": bare.fit}) == bare
    assert told.lines == [f"fit.mixed 0, not the default: {NOT_MIXED}"]
    asked = load_recipe("cifar10_vit_tiny", ["fit.mixed=0.5"])
    assert suited(asked, frame, told) is asked  # the fit refuses it


def test_tables_that_no_file_holds_let_widths_differ() -> None:
    """Masks of windows lie in memory, where the rest of a network is tried without any."""
    small = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 32}
    stages = {"depths": [2, 2], "num_heads": [2, 4]}
    model = Arch("timm/swin_tiny_patch4_window7_224", small | stages).build_with_tables()
    frame, told = open_frame(model, (3, 32, 32), "count"), Told()
    bare = Recipe.model_validate({"name": "x", "model": {"arch": "timm/swin"}})
    assert suited(bare, frame, told) is bare
    assert not told.lines


def test_choices_follow_what_was_asked_for(tmp_path: Path) -> None:
    asked = ["model.input_size=[3,64,64]", "norm.fold=true"]
    found = chosen_for("timm/test_resnet", tmp_path, overrides=asked)
    assert found.recipe.data.crop_padding == 8
    assert found.recipe.fit.batch_size == 128
    assert not any("norm.images" in reason for reason in found.reasons)
    unlabelled = chosen_for("timm/test_resnet", tmp_path, labels=False)
    assert unlabelled.recipe.loss.task == 0
    assert any("loss.task" in reason for reason in unlabelled.reasons)


@pytest.mark.slow
def test_a_network_of_ones_own_takes_the_size_of_the_images(
    neumeta, image_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    convolve = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()\n"
        "    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)\n"
        "    return nn.Sequential(*convolve, *head)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.save(resolve("own_net:make").build("cpu").state_dict(), tmp_path / "own.pth")
    asked = ["--arch", "own_net:make", "--data", image_folder, "--epochs", "1", "--device", "cpu"]
    asked += ["--set", "fit.limit=8", "--set", "fit.precision=float32"]
    fitted = neumeta("distill", "own.pth", *asked, "-o", "own.safetensors")
    measured = neumeta("eval", "own.pth", *asked[:4], "--no-latency")
    for result in (fitted, measured):
        assert result.code == 0, result.stderr
        assert "input size 3×32×32, that of the first image" in result.stderr
    assert load_manifold(tmp_path / "own.safetensors", trust_code=True).input_size == (3, 32, 32)


@pytest.mark.slow
def test_a_librarys_network_takes_small_images_as_it_knows_them(
    build, image_folder: Path, tmp_path: Path, capsys
) -> None:
    model, arch = build("timm/test_resnet")  # of 160×160 images
    torch.save(model.state_dict(), tmp_path / "net.pth")
    checkpoint = load_checkpoint(tmp_path / "net.pth", arch)
    section = DataSection(root=str(image_folder))
    images = find_images(section, "train", checkpoint.input_size)

    def known(size: int) -> Images:
        """Labelled with what the network says of them at a size."""
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        pixels = torch.stack([read_image(file, grey=False) for file in images.files])
        enlarged = preprocessing_for(checkpoint)
        made = pixels if size == 32 else torch.stack([enlarged(image) for image in pixels])
        with torch.no_grad():
            return replace(images, labels=checkpoint.model((made / 255 - mean) / std).argmax(1))

    small, frame, fields = at_size_of(known(32), checkpoint, section)
    assert small.input_size == frame.inputs == (3, 32, 32)
    assert fields == {"crop_mode": "cover"}
    every = min(64, len(images))
    assert f"knows {every} of {every} as they are" in capsys.readouterr().err
    for usual in (known(160), replace(known(32), labelled=False)):
        same, frame, fields = at_size_of(usual, checkpoint, section)
        assert same.input_size == frame.inputs == (3, 160, 160)
        assert not fields
    assert not capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm/test_efficientnet", "timm/test_vit"])
def test_distill_needs_no_recipe(neumeta, image_folder: Path, tmp_path: Path, name: str) -> None:
    """One step each; the saved recipe and the manifold can be used."""
    arch = resolve(name)
    torch.manual_seed(0)
    model = arch.build("cpu")
    model.reset_classifier(10)
    torch.save(model.state_dict(), tmp_path / "net.pth")
    kept, made = tmp_path / "net.yaml", tmp_path / "net.safetensors"
    asked = ["--data", str(image_folder), "--epochs", "1", "--device", "cpu", "--arch", name]
    asked += ["--set", "fit.limit=16", "--set", "fit.precision=float32", "--set", "norm.images=4"]
    asked += ["--set", "eval.gammas=[0.5]", "--set", "eval.watch=8"]
    neumeta("distill", tmp_path / "net.pth", *asked, "--save-recipe", kept, "-o", made)
    assert load_recipe(str(kept)).fit.epochs == 1
    small = load_manifold(made).sample(0.5, samples=0)
    assert small(torch.rand(2, 3, 160, 160)).shape == (2, 10)


def test_what_is_lacking_without_a_recipe_is_said(neumeta, tmp_path: Path) -> None:
    fails(neumeta("fit"), "name a recipe", "--checkpoint FILE --data DIR")
    torch.save(resolve("lenet").build("cpu").state_dict(), tmp_path / "net.pth")
    known = ["--arch", "lenet"]
    fails(neumeta("fit", "--checkpoint", tmp_path / "net.pth", *known), "pass --data DIR")
    fails(neumeta("distill", tmp_path / "net.pth", *known), "pass --data DIR")
