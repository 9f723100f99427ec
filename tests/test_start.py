"""What a fit begins with: missing channels rebuilt from those that are left."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Told, randomise_norms, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_fits import prepared, recipe_for
from torch import Tensor, nn

from neumeta_cli import pipeline
from neumeta_cli.checkpoint import Arch, resolve
from neumeta_cli.data.images import normalise
from neumeta_cli.data.settings import DataSection
from neumeta_cli.distill import Fitter, inputs
from neumeta_cli.distill.inputs import Inputs
from neumeta_cli.manifold import Manifold, Moments, build_manifold, inr_settings
from neumeta_cli.manifold.settings import NoiseSection
from neumeta_cli.recipe import Recipe, load_recipe
from neumeta_cli.resize import open_frame
from neumeta_cli.tasks import Task, load_task

SIZE = (1, 8, 8)
DIGITS = DataSection(format="digits", mean=(0.5,), std=(0.5,))


class Grouped(nn.Module):
    """Convolutions in groups and transposed, none of which is followed by another of its kind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.groups = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 12, 3, groups=2)
        self.wider, self.last = nn.ConvTranspose2d(12, 4, 2, stride=2), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.groups(self.first(x).relu()).relu()
        return self.last(self.wider(x).relu().mean((2, 3)))


class Residual(nn.Module):
    """A stream that two layers write and two read, with norms to fold."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 1)
        )
        self.last = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.last((x + self.block(x)).relu().mean((2, 3)))


class Standardised(nn.Conv2d):
    """A convolution whose weight is normalised when it is used (Qiao et al., 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / weight.std((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias, padding=self.padding)


def manifold_of(model: nn.Module, knots: list[float]) -> tuple[Manifold, dict[str, Tensor]]:
    """In float64."""
    settings_ = inr_settings("selected", knots=knots)
    how = resolve("lenet_digits"), SIZE, "all", False, settings_, NoiseSection(samples=1)
    manifold, tensors = build_manifold(model, *how)
    return manifold.double(), {name: t.double() for name, t in tensors.items()}


def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images in float64."""
    name = "neumeta_cli.tasks.base.normalise"
    monkeypatch.setattr(name, lambda pixels, data: normalise(pixels, data).double())


def inputs_of(manifold: Manifold, tensors: dict[str, Tensor], task: Task, count: int = 200):
    return Inputs(manifold, tensors, task, count, 0, torch.device("cpu"), Told())


def repeat_channels(model: nn.Module) -> None:
    """Make the second half of each clique's channels multiples of the first half, and smaller."""
    frame = open_frame(model, SIZE).with_scope("all")
    weights, generator = model.state_dict(), torch.Generator().manual_seed(0)
    for clique in frame.cliques:
        first, second = torch.arange(clique.rows).view(clique.copies, 2, -1).unbind(1)
        share = 0.2 + 0.2 * torch.rand(first.numel(), generator=generator)
        for member in clique.members:
            at = torch.from_numpy(member.positions)
            along = weights[member.weight].movedim(member.dim, 0)
            makes = member.dim == frame.output(member.weight)
            of = along[at[first.flatten() if makes else second.flatten()]]
            by = share.view(-1, *(1,) * (of.dim() - 1)) if makes else 0.4
            along[at[second.flatten()]] = of * by


@pytest.mark.parametrize("below_kernel", [True, False])
@pytest.mark.parametrize(
    "make",
    [lambda: resolve("lenet_digits").build("cpu"), Residual, Grouped],
    ids=["flattened", "residual and folded", "groups and transposed"],
)
def test_channels_that_others_are_made_of_are_not_missed(
    make: Callable[[], nn.Module], below_kernel: bool, monkeypatch
) -> None:
    """The network at each knot computes what the checkpoint does."""
    if not below_kernel:
        monkeypatch.setattr(inputs, "MOST_BELOW_KERNEL", 0)
    monkeypatch.setattr(Moments.rebuild, "__defaults__", (1e-10,))
    torch.manual_seed(0)
    model = make().requires_grad_(False)
    randomise_norms(model.eval())
    model = open_frame(model, SIZE).fold(model)
    repeat_channels(model)
    task = load_task(DIGITS, model, SIZE)
    double(monkeypatch)
    manifold, tensors = manifold_of(model, [0.25, 0.5])
    x = task.inputs(task.train, torch.arange(8), None)
    wanted = manifold.frame.build({}, tensors)(x)
    before = [manifold.sample(width, samples=0)(x) for width in (0.75, 0.5)]
    manifold.inr.start(inputs_of(manifold, tensors, task))
    for width, lacking in zip((0.75, 0.5), before, strict=True):
        found = manifold.sample(width, samples=0)(x)
        assert relative_error(lacking, wanted) > 1e-3
        assert relative_error(found, wanted) < 1e-6
    assert torch.equal(manifold.sample(1.0, samples=0)(x), wanted)


@given(
    st.integers(1, 3), st.integers(2, 6), st.integers(1, 3), st.integers(0, 1 << 16), st.booleans()
)
@settings(max_examples=40)
def test_what_is_left_is_read_by_least_squares(
    groups: int, channels: int, repeats: int, seed: int, kernel: bool
) -> None:
    """What outputs lack then has nothing to do with any channel that is left."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = drawn(groups, 50, channels) @ drawn(groups, channels, channels)
    places = torch.randperm(channels * repeats, generator=generator).view(channels, repeats)
    weight = drawn(2 * groups, channels * repeats, *((3,) if kernel else ()))
    count = int(torch.randint(1, channels, (), generator=generator))
    stay = torch.randperm(channels, generator=generator)[:count].sort().values
    kept = places[stay].flatten().sort().values
    moments = Moments(x.transpose(1, 2) @ x / 50, places)
    change = moments.rebuild(weight, kept, ridge=1e-12)
    gone = torch.ones(channels * repeats, dtype=torch.bool)
    gone[kept] = False
    assert not change[:, gone].any()
    apart = change.clone()
    apart[:, gone] -= weight[:, gone]
    per_group = apart[:, places].unflatten(0, (groups, 2))  # (g, o, C, repeats, …)
    lacking = torch.einsum("gnc,gocr...->gnor...", x, per_group)
    told = torch.einsum("gns,gnor...->gsor...", x[:, :, stay], lacking)
    assert float(told.abs().max()) < 1e-6 * max(1.0, float(x.square().sum() * weight.abs().max()))


def digits() -> tuple[Manifold, dict[str, Tensor], Task, Recipe]:
    """The checkpoint that comes along, and its data."""
    said = ["fit.epochs=1", "fit.limit=256", "fit.save_steps=1", "fit.precision=float32"]
    recipe = load_recipe("digits_lenet", [*said, "eval.watch=0"])
    checkpoint, task = pipeline.open_inputs(recipe)
    how = checkpoint.arch, checkpoint.input_size, "all", False, recipe.inr, recipe.noise
    return *build_manifold(checkpoint.model, *how), task, recipe


def test_a_fit_begins_closer_to_the_checkpoint() -> None:
    """On test images, at widths at knots and between them; the full width stays as it is."""
    manifold, tensors, task, _ = digits()
    x = task.inputs(task.test, torch.arange(len(task.test)), None)
    full = manifold.sample(1.0, samples=0)(x)

    def apart(width: float) -> float:
        return float((manifold.sample(width, samples=0)(x) - full).square().mean())

    widths = (0.9, 0.75, 0.6, 0.5, 0.4, 0.25)
    before = [apart(width) for width in widths]
    state = torch.get_rng_state()
    manifold.inr.start(inputs_of(manifold, tensors, task))
    assert torch.equal(torch.get_rng_state(), state)
    after = [apart(width) for width in widths]
    assert all(a < 0.8 * b for a, b in zip(after, before, strict=True)), (before, after)
    assert torch.equal(manifold.sample(1.0, samples=0)(x), full)


def test_moments_that_do_not_fit_in_memory_are_measured_one_after_another(monkeypatch) -> None:
    manifold, tensors, task, _ = digits()
    names = ["conv2.weight", "fc1.weight", "fc2.weight"]
    together = dict(inputs_of(manifold, tensors, task)(names))
    monkeypatch.setattr(inputs, "MOST_BYTES", 1)
    apart = dict(inputs_of(manifold, tensors, task)(names))
    assert [*together] == [*apart] == names
    for name, moments in together.items():
        assert torch.equal(moments.products, apart[name].products)


def test_no_image_is_looked_at_for_nothing(monkeypatch) -> None:
    manifold, tensors, task, _ = digits()
    found = inputs_of(manifold, tensors, task)
    monkeypatch.setattr(found.network, "forward", refuse)
    assert not list(found(["conv1.bias"]))
    assert not list(found([]))


def test_a_layer_that_does_not_just_multiply_is_left_alone() -> None:
    torch.manual_seed(0)
    convolve = Standardised(8, 8, 3, padding=1), nn.Conv2d(8, 4, 3), nn.Flatten()
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), *convolve, nn.Linear(64, 10))
    model = model.requires_grad_(False).eval()
    manifold, tensors = manifold_of(model, [0.5])
    task = load_task(DIGITS, model, SIZE)
    manifold, tensors = manifold.float(), {name: t.float() for name, t in tensors.items()}
    kept = {name: t.clone() for name, t in tensors.items()}
    found = dict(inputs_of(manifold, tensors, task)(["2.weight", "3.weight", "5.weight"]))
    assert set(found) == {"3.weight", "5.weight"}
    assert found["5.weight"].places.shape == (4, 16)
    assert all(torch.equal(t, kept[name]) for name, t in tensors.items())


@pytest.mark.parametrize("heads", ["width", "count", "both"])
def test_heads_with_parameters_of_their_own_are_no_flattened_maps(heads: str) -> None:
    """Swin's table of positions has a column for each head; attention is read by channel."""
    small = {"img_size": 8, "patch_size": 2, "window_size": 2, "embed_dim": 16, "depths": [2]}
    small |= {"num_heads": [2], "in_chans": 1, "num_classes": 10}
    arch = Arch("timm/swin_tiny_patch4_window7_224", small)
    torch.manual_seed(0)
    model = arch.build("cpu").eval().requires_grad_(False)
    how = "all", False, inr_settings("selected"), NoiseSection(), heads
    manifold, tensors = build_manifold(model, arch, SIZE, *how)
    name = "layers.0.blocks.0.attn.proj.weight"
    task = load_task(DIGITS, model, SIZE)
    moments = dict(inputs_of(manifold, tensors, task, 20)([name]))[name]
    assert moments.places.flatten().tolist() == list(range(16))
    assert moments.places.shape == (16, 1)


SELECTED = {"scope": "all", "norm": {"fold": False}, "inr": {"kind": "selected"}}


class AskedError(Exception):
    pass


def refuse(*_: object) -> None:
    raise AskedError


@pytest.mark.parametrize(
    ("fields", "asks"),
    [
        (SELECTED, True),
        (SELECTED | {"fit": {"start_images": 0}}, False),
        (SELECTED | {"inr": {"kind": "selected", "knots": []}}, False),
        ({}, False),
    ],
    ids=["as it is", "switched off", "slices", "another kind"],
)
def test_only_an_inr_that_makes_up_for_channels_has_features_measured(
    build, image_folder: Path, monkeypatch, fields: dict, asks: bool
) -> None:
    monkeypatch.setattr(Inputs, "__call__", refuse)
    recipe = recipe_for(image_folder, **({"fit": {"start_images": 256}} | fields))
    fitter = Fitter(*prepared(build, recipe), recipe)
    before = copy.deepcopy(fitter.manifold.inr.state_dict())
    if asks:
        with pytest.raises(AskedError):
            fitter.start()
    else:
        fitter.start()
    assert all(torch.equal(t, before[n]) for n, t in fitter.manifold.inr.state_dict().items())


def test_a_resumed_fit_does_not_start_again(tmp_path: Path, monkeypatch) -> None:
    def fitter(folder: Path | None = None) -> Fitter:
        manifold, tensors, task, recipe = digits()
        return Fitter(manifold, tensors, task, recipe, folder=folder)

    whole, cut = fitter(), fitter(tmp_path)
    whole.run()
    cut.start()
    begun = cut.stepper.average.module.state_dict()
    assert any(t.any() for name, t in begun.items() if "changes" in name)
    with cut.loop.journal.running():
        cut.loop.advance()
    monkeypatch.setattr(Inputs, "__call__", refuse)
    again = fitter(tmp_path)
    assert again.run(resume=True).steps == whole.loop.step == 4
    ended = again.manifold.inr.state_dict()
    assert all(torch.equal(t, ended[n]) for n, t in whole.manifold.inr.state_dict().items())
