"""Every recipe from files to an exported network, and what the tasks measure."""

import os
import signal
from pathlib import Path

import miniature
import pytest
import torch
import torchvision
from torch import nn

import neumeta_cli
from neumeta_cli.cli.recipes import commented_yaml
from neumeta_cli.data import Images
from neumeta_cli.data.augmentation import augment
from neumeta_cli.data.settings import DataSection
from neumeta_cli.errors import NeumetaError, StoppedRunError
from neumeta_cli.pipeline import build_untrained
from neumeta_cli.recipe import load_recipe, parse_recipe
from neumeta_cli.shipped import recipe_files
from neumeta_cli.tasks import TASKS, Generation, Segmentation, load_task
from neumeta_cli.training import Place, train_network
from neumeta_cli.training.plain import PlainStep

SMALL = ["model.input_size=[3,32,32]", "data.image_size=32", "model.num_classes=2"]
SEGMENTS = ["model.input_size=[3,36,48]", "data.crop_size=[32,32]", "fit.batch_size=2"]
SEGMENTS += ["inr.knots=[0.5]", "permute.solver=identity"]
FLOAT32 = "train.precision=float32"  # trying may find another one quicker the next time
RECIPES = {
    "cifar100_resnet20": (miniature.cifar100, ["fit.views=1"]),
    # Of early layers: what "paper" and "all" choose takes others here, and the last ones are large.
    "imagenet_r18": (miniature.image_folder, [*SMALL, "scope=[layer1.1.conv1]"]),
    "imagenet_r50": (
        miniature.image_folder,
        [*SMALL, "scope=[layer1.2.*]", "model.kwargs={width_per_group: 16}"],
    ),
    "voc_unet_r18": (lambda root: miniature.voc(root, True), SEGMENTS),
    "camvid_unet_r18": (miniature.mask_folder, [*SEGMENTS, "scope=[up.*.conv1]"]),
    "mnist_lenet": (miniature.mnist, []),
    "mnist_vae": (miniature.mnist, []),
    "celeba_vae": (miniature.celeba, []),
    "cifar10_vit_tiny": (
        lambda root: miniature.image_folder(root, size=32),
        ["model.num_classes=2", "model.kwargs={img_size: 32, patch_size: 8, depth: 2}"],
    ),
}


@pytest.fixture
def no_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Miniatures are not the published files."""
    for module in (torchvision.datasets.cifar, torchvision.datasets.celeba):
        monkeypatch.setattr(module, "check_integrity", lambda *_: True)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_from_files_to_an_exported_network(
    name: str, neumeta, no_checksums: None, tmp_path: Path
) -> None:
    make, fields = RECIPES[name]
    root = make(tmp_path / "the data")
    shared = ["train.batch_size=4", "train.epochs=1", "fit.epochs=1", "fit.limit=4", FLOAT32]
    shared += ["fit.precision=float32", "noise.samples=2", "permute.solver=greedy"]
    shared += ["eval.gammas=[0.5]", "eval.watch=0"]
    shared += [] if name.startswith("mnist") else ["fit.start_images=0"]
    shared += fields
    sets = [part for field in shared for part in ("--set", field)]
    options = ("--recipe", name, "--data", root, *sets)
    assert (trained := neumeta("train", *options, "-o", "net.safetensors")).code == 0, trained
    fitted = neumeta("fit", *options, "--checkpoint", "net.safetensors", "--run", "run")
    assert fitted.code == 0, fitted
    assert neumeta("export", "--width", "0.5", "-o", "half.pt").code == 0
    measured = neumeta("eval", "half.pt", "--data", root, "--no-latency")
    assert measured.code == 0, measured
    for metric in TASKS[load_recipe(name).task].metrics[:1]:
        assert metric.name in measured.stdout
    half, recipe = neumeta_cli.load("half.pt"), load_recipe(name, fields)
    size = recipe.model.input_size or neumeta_cli.load("run/manifold.safetensors").input_size
    whole = neumeta_cli.load("net.safetensors")
    x = torch.rand(2, *size)
    for a, b in zip(_tensors(half(x)), _tensors(whole(x)), strict=True):
        assert a.shape == b.shape
        assert bool(a.isfinite().all())


def _tensors(outputs: object) -> list[torch.Tensor]:
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def test_voc_has_an_augmented_set_where_it_is_there(tmp_path: Path) -> None:
    recipe = load_recipe("voc_unet_r18")
    counts = []
    for augmented in (False, True):
        root = miniature.voc(tmp_path / str(augmented), augmented)
        data = recipe.data.at(str(root))
        counts.append(len(Segmentation.load(data, "train", (3, 64, 64))))
        masks = Segmentation.load(data, "test", (3, 50, 70))
        assert set(masks.fetch_labels(torch.arange(2)).unique().tolist()) == {*range(21), 255}
    assert counts == [3, 4]


def test_masks_move_with_their_images() -> None:
    """A mask that is a function of the pixels stays that function under every geometric change."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 11, (8, 24, 30), generator=generator, dtype=torch.uint8)
    pixels = (labels * 20)[:, None].expand(-1, 3, -1, -1).clone()
    data = DataSection(flip=True, crop_size=(16, 20), crop_padding=4, ignore=0)
    x, y = augment(pixels, labels, data, generator)
    assert x.shape == (8, 3, 16, 20)
    assert torch.equal(x[:, 0], y * 20)
    assert not torch.equal(y, labels[:, :16, :20])


def test_a_part_of_a_batch_is_augmented_as_in_the_whole() -> None:
    pixels = torch.randint(0, 256, (6, 3, 24, 24), dtype=torch.uint8)
    labels = torch.arange(6)
    data = DataSection(
        flip=True, resized_crop=(0.3, 1.0), crop_size=(16, 16), colour_jitter=0.4, blur=0.5
    )
    before = torch.get_rng_state()
    whole, _ = augment(pixels, labels, data, torch.Generator().manual_seed(1))
    part = slice(2, 5)
    some, own = augment(pixels[part], labels[part], data, torch.Generator().manual_seed(1), 6, part)
    assert torch.equal(some, whole[part])
    assert torch.equal(own, labels[part])
    assert torch.equal(torch.get_rng_state(), before)


class Answers(nn.Module):
    """Gives scores that were prepared, batch after batch."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores, self.place = scores, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.place += len(x)
        return self.scores[self.place - len(x) : self.place]


def test_mean_iou_is_over_classes_and_leaves_out_what_does_not_count() -> None:
    truth = torch.tensor([[[0, 0, 1, 1], [2, 2, 2, 9]]], dtype=torch.uint8)
    found = torch.tensor([[[0, 1, 1, 1], [2, 2, 0, 0]]])
    data = DataSection(format="mask_folder", classes=3, ignore=9)
    images = Images(truth, (), torch.zeros(1, 3, 2, 4, dtype=torch.uint8), image_size=(2, 4))
    scores = nn.functional.one_hot(found, 3).permute(0, 3, 1, 2).float()
    measured = Segmentation(data, None, images).measure(Answers(scores))
    # Intersections over unions: 1/3, 2/3, 2/3; F1: 2/4, 4/5, 4/5.
    assert measured["mIoU"] == pytest.approx(5 / 9)
    assert measured["F1"] == pytest.approx(0.7)


class Coder(nn.Module):
    """An autoencoder whose code is the image's mean and whose image is grey."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean, log_variance = x.mean((1, 2, 3))[:, None], torch.full((len(x), 1), -2.0)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp() if self.training else mean
        return self.decode(code) + 0 * x, mean, log_variance

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        return code[:, :, None, None].expand(-1, 1, 4, 4)


def test_nll_is_the_negative_elbo_of_drawn_codes() -> None:
    pixels = torch.randint(0, 256, (3000, 1, 4, 4), dtype=torch.uint8)
    data = DataSection(format="mnist", mean=[0.0], std=[1.0])
    images = Images(torch.zeros(3000), (), pixels, image_size=(4, 4))
    task = Generation(data, None, images)
    x = pixels.float() / 255
    prior = torch.distributions.Normal(0.0, 1.0)
    posterior = torch.distributions.Normal(x.mean((1, 2, 3)), torch.tensor(-1.0).exp())
    code = posterior.sample((200,))
    pixel = torch.distributions.Bernoulli(logits=code[..., None])
    likelihood = pixel.logits * x.flatten(1) + nn.functional.logsigmoid(-pixel.logits)
    bound = likelihood.sum(-1).mean() - torch.distributions.kl_divergence(posterior, prior).mean()
    measured = task.measure(Coder())
    assert measured["NLL"] == pytest.approx(-float(bound), rel=0.01)
    again = task.measure(Coder())
    assert measured == again  # codes are drawn from a seed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "segmentation"}, ["data.format", "mask_folder"]),
        ({"task": "poetry"}, ["task", "classification", "package.module:Class", "poetry"]),
        ({"data": {"format": "voc"}}, ["data.format", "voc"]),
        ({"task": "segmentation", "data": {"format": "voc"}}, ["data.classes"]),
        ({"data": {"resized_crop": [0.5, 2.0]}}, ["resized_crop", "2.0"]),
        ({"model": {"arch": "lenet", "input_size": [1, 0, 28]}}, ["input_size"]),
        ({"data": {"format": "own"}}, ["own", "package.module:Class"]),
    ],
)
def test_wrong_recipes_fail_before_any_data_is_read(change: dict, words: list[str]) -> None:
    content = {"name": "wrong", "model": {"arch": "lenet"}, **change}
    with pytest.raises(NeumetaError) as caught:
        parse_recipe(content, "wrong.yaml")
    assert all(word in str(caught.value) for word in ["wrong.yaml", *words])


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("mnist", "MNIST/raw"),
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python"),
        ("voc", "JPEGImages"),
        ("celeba", "list_eval_partition"),
        ("mask_folder", "train/masks"),
        ("image_folder", "train/<class>"),
    ],
)
def test_a_folder_without_the_data_is_told_the_layout(
    form: str, expected: str, tmp_path: Path
) -> None:
    data = DataSection(format=form, root=str(tmp_path), classes=2)
    with pytest.raises(NeumetaError, match="expected") as caught:
        Generation.load(data, "train", (3, 32, 32))
    assert expected in str(caught.value)
    with pytest.raises(NeumetaError, match="no such data folder"):
        Generation.load(data.at(str(tmp_path / "nothing")), "train", (3, 32, 32))


def test_what_cannot_be_downloaded_says_so(tmp_path: Path, monkeypatch) -> None:
    folder = DataSection(root=str(tmp_path / "new"), download=True)
    with pytest.raises(NeumetaError, match=r"cannot be downloaded.*train/<class>"):
        Generation.load(folder, "train", (3, 32, 32))

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("the net is down")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", refuse)
    digits = DataSection(format="mnist", root=str(tmp_path / "new"), download=True)
    with pytest.raises(NeumetaError, match=r"the net is down.*MNIST/raw"):
        Generation.load(digits, "train", (1, 28, 28))


def test_networks_that_do_not_go_with_a_task_are_refused(tmp_path: Path) -> None:
    root = miniature.mask_folder(tmp_path)
    data = DataSection(format="mask_folder", root=str(root), classes=11, ignore=11)
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 11))
    with pytest.raises(NeumetaError, match="does not segment"):
        load_task(data, classifier, (3, 36, 48), kind=Segmentation)
    with pytest.raises(NeumetaError, match="gives 5 scores"):
        load_task(data, nn.Conv2d(3, 5, 1), (3, 36, 48), kind=Segmentation)
    fewer = data.model_copy(update={"classes": 5})
    with pytest.raises(NeumetaError, match="masks have class 10"):
        load_task(fewer, nn.Conv2d(3, 5, 1), (3, 36, 48), kind=Segmentation)
    with pytest.raises(NeumetaError, match="no variational autoencoder"):
        load_task(data, nn.Conv2d(3, 11, 1), (3, 36, 48), kind=Generation)


def interrupt_at(monkeypatch, step: int) -> list[int]:
    """Ctrl-C in the middle of a step of ordinary training; gives all steps that are taken."""
    take, steps = PlainStep.take, []

    def interrupted(self: PlainStep, index: torch.Tensor, place: Place) -> dict[str, float] | None:
        steps.append(place.step)
        if len(steps) == step + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return take(self, index, place)

    monkeypatch.setattr(PlainStep, "take", interrupted)
    return steps


@pytest.mark.slow
def test_training_that_is_stopped_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch) -> None:
    """Also what the network draws itself: an autoencoder draws its codes."""
    root = miniature.mnist(tmp_path / "data", count=20)
    recipe = load_recipe("mnist_vae", ["train.epochs=3", "train.batch_size=4", FLOAT32])
    folder = tmp_path / "state"
    folder.mkdir()

    def trained(where: Path | None, resume: bool = False) -> dict[str, torch.Tensor]:
        model, _ = build_untrained(recipe)
        task = load_task(recipe.data.at(str(root)), model, (1, 28, 28), kind=Generation)
        return train_network(model, task, recipe.train, folder=where, resume=resume).state_dict()

    whole = trained(None)
    steps = interrupt_at(monkeypatch, 6)  # in the middle of an epoch
    with pytest.raises(StoppedRunError, match="stopped at step 7 of 15"):
        trained(folder)
    resumed = trained(folder, resume=True)
    assert steps == list(range(15))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


@pytest.mark.slow
def test_training_stops_by_a_signal_and_says_how_to_go_on(neumeta, tmp_path: Path, monkeypatch):
    sets = ["--recipe", "digits_lenet", "--set", "train.epochs=2", "-o", "net.safetensors"]
    sets += ["--set", FLOAT32]
    steps = interrupt_at(monkeypatch, 4)
    stopped = neumeta("train", *sets)
    assert stopped.code == 130
    assert "--resume" in stopped.stderr
    assert not Path("net.safetensors").exists()
    assert neumeta("train", *sets, "--resume").code == 0
    assert steps == list(range(22 * 2))
    assert Path("net.safetensors").exists()
    assert not Path("net.safetensors.training").exists()


@pytest.mark.slow
def test_a_part_of_the_network_begins_with_trained_weights(neumeta, tmp_path: Path, build) -> None:
    encoder, _ = build("torchvision/resnet18", seed=3)
    torch.save({"state_dict": encoder.state_dict()}, "encoder.pth")
    root = miniature.mask_folder(tmp_path / "data")
    fields = [*SEGMENTS, FLOAT32, "train.learning_rate=1e-12", "train.epochs=1"]
    fields += ["train.batch_size=4"]
    sets = [part for field in fields for part in ("--set", field)]
    options = ("--recipe", "camvid_unet_r18", "--data", root, *sets, "-o", "net.safetensors")
    trained = neumeta("train", *options, "--init", "encoder.pth")
    assert trained.code == 0, trained.stderr
    assert "120 of " in trained.stderr  # all but the classifier's weight and bias
    network = neumeta_cli.load("net.safetensors")
    torch.testing.assert_close(
        network.encoder.layer4[1].conv2.weight, encoder.layer4[1].conv2.weight, rtol=0, atol=1e-6
    )
    torch.save({"other.weight": torch.zeros(3)}, "other.pth")
    refused = neumeta("train", *options, "--overwrite", "--init", "other.pth")
    assert refused.code == 1
    assert "no weights for zoo/unet_resnet18" in refused.stderr


def test_a_class_that_does_not_count_is_in_neither_mean() -> None:
    truth = torch.tensor([[[0, 0, 1, 1], [2, 2, 1, 1]]], dtype=torch.uint8)
    found = torch.tensor([[[1, 1, 1, 0], [2, 2, 1, 1]]])
    data = DataSection(format="mask_folder", classes=3, ignore=0)
    images = Images(truth, (), torch.zeros(1, 3, 2, 4, dtype=torch.uint8), image_size=(2, 4))
    scores = nn.functional.one_hot(found, 3).permute(0, 3, 1, 2).float()
    measured = Segmentation(data, None, images).measure(Answers(scores))
    assert measured["mIoU"] == pytest.approx((3 / 4 + 1) / 2)
    assert measured["F1"] == pytest.approx((6 / 7 + 1) / 2)


def test_masks_with_another_class_are_refused_wherever_they_are(tmp_path: Path) -> None:
    root = miniature.mask_folder(tmp_path)
    miniature.mask(root / "train" / "masks" / "3.png", 36, 48, 20, 11)
    data = DataSection(format="mask_folder", root=str(root), classes=11, ignore=11)
    with pytest.raises(NeumetaError, match="masks have class 19"):
        load_task(data, nn.Conv2d(3, 11, 1), (3, 36, 48), kind=Segmentation)


@pytest.mark.slow
def test_class_folders_of_grey_images_go_with_networks_for_grey_ones(
    neumeta, tmp_path: Path
) -> None:
    root = miniature.image_folder(tmp_path / "digits", classes=10, count=2, size=12)
    sets = ["--set", "fit.limit=20", "--set", "fit.precision=float32", "--epochs", "1"]
    sets += ["--run", "run"]
    assert neumeta("fit", "-r", "digits_lenet", *sets).code == 0
    result = neumeta("eval", "run/manifold.safetensors", "--data", root, "--no-latency")
    assert result.code == 0, result.stderr
    assert "20 test images" in result.stdout


def test_crops_larger_than_the_image_are_padded() -> None:
    pixels = torch.full((2, 3, 8, 8), 9, dtype=torch.uint8)
    masks = torch.full((2, 8, 8), 5, dtype=torch.uint8)
    data = DataSection(format="mask_folder", crop_size=(12, 10), classes=6, ignore=7)
    x, y = augment(pixels, masks, data, torch.Generator().manual_seed(0))
    assert x.shape == (2, 3, 12, 10)
    assert set(y.unique().tolist()) == {5, 7}


def test_a_broken_task_of_ones_own_is_one_line(neumeta, tmp_path: Path) -> None:
    Path("brokentask.py").write_text("import nothing_at_all\n")
    Path("slipped.py").write_text("def (:\n")
    for name, words in (
        ("brokentask:T", "nothing_at_all"),
        ("slipped:T", "SyntaxError"),
        ("brokentask", "package.module:Class"),
        (":", "package.module:Class"),
    ):
        options = ["-r", "digits_lenet", "--set", f"task='{name}'", "-o", "net.pt"]
        result = neumeta("train", *options)
        assert result.code == 1
        assert words in result.stderr
        assert "internal" not in result.stderr


@pytest.mark.parametrize("name", recipe_files())
def test_a_recipe_as_shown_is_the_same_recipe(name: str, tmp_path: Path) -> None:
    recipe, path = load_recipe(name), tmp_path / "shown.yaml"
    path.write_text(commented_yaml(recipe), encoding="utf-8")
    assert load_recipe(str(path)) == recipe
