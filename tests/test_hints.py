"""Features of narrower networks beside the checkpoint's for the same channels."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_fits import prepared, recipe_for
from torch.func import functional_call

from neumeta_cli.distill import Fitter
from neumeta_cli.distill.fast.padding import Padding
from neumeta_cli.distill.hints import Hints
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import build_manifold, inr_settings
from neumeta_cli.manifold.settings import NoiseSection
from neumeta_cli.training import Place


def hinted(build, name: str):
    """In float64, folded; the padding is tried on two images."""
    torch.manual_seed(0)
    model, arch = build(name)
    size = arch.default_input_size()
    manifold, tensors = build_manifold(
        model, arch, size, "all", True, inr_settings("selected"), NoiseSection(samples=1)
    )
    padding = Padding(manifold, tensors, torch.randn(2, *size))
    return manifold, {n: t.double() for n, t in tensors.items()}, padding, Hints(manifold)


def features_at(manifold, hints, sizes, weights, x, of=lambda made: made):
    network = manifold.skeleton(sizes)
    fixed = {n: t.double() for n, t in manifold.fixed_at(sizes).items()}
    with hints.watching(network) as seen:
        functional_call(network, fixed | of(weights), (x,))
    assert not any(module._forward_pre_hooks for module in network.modules())
    return seen


@pytest.mark.parametrize("name", ["lenet", "cifar_resnet20"])
def test_a_network_without_dead_channels_has_the_checkpoints_features(build, name: str) -> None:
    """What is left out is zero where it is written and read: then nothing is missing."""
    manifold, tensors, padding, hints = hinted(build, name)
    x = torch.randn(3, *manifold.input_size, dtype=torch.float64)
    sizes = manifold.frame.sizes(0.6)
    narrow = {t.spec.name: t for t in manifold.targets(sizes)}
    for target in narrow.values():
        layout = target.spec.layout
        dims = ((layout.out, target.kept[0]), (layout.into, target.kept[1]))
        for dim, kept in dims:
            if dim is not None and kept is not None:
                weight = tensors[target.spec.name].movedim(dim, 0)
                gone = torch.ones(len(weight), dtype=torch.bool)
                gone[kept] = False
                weight[gone] = 0
    own = {}
    for n, target in narrow.items():
        own[n] = tensors[n]
        dims = ((target.spec.layout.out, target.kept[0]), (target.spec.layout.into, target.kept[1]))
        for dim, kept in dims:
            if dim is not None and kept is not None:
                own[n] = own[n].index_select(dim, kept)
    full = manifold.frame.full
    wanted = features_at(manifold, hints, full, {n: tensors[n] for n in own}, x)
    wider = padding.sizes(sizes)
    assert wider != sizes
    seen = features_at(manifold, hints, wider, own, x, lambda made: padding.pad(made, sizes))
    assert set(seen) == set(wanted) == set(hints.readers)
    assert float(hints.loss(seen, wanted, sizes, padding)) < 1e-20
    for factor in (1.1, 101.0):
        changed = {n: factor * features for n, features in seen.items()}
        apart = float(hints.loss(changed, wanted, sizes, padding))
        assert apart == pytest.approx(math.log1p((factor - 1) ** 2), rel=1e-6)


def test_features_are_compared_where_residual_streams_are_read(build) -> None:
    _, _, _, hints = hinted(build, "cifar_resnet20")
    assert set(hints.readers.values()) == {"layer2.0.conv1", "layer3.0.conv1", "fc"}
    _, _, _, hints = hinted(build, "lenet")  # nothing is tied: everywhere
    assert len(hints.readers) == 4


def test_hints_count_in_a_fit_and_fade(build, image_folder) -> None:
    recipe = recipe_for(
        image_folder,
        scope="all",
        norm={"fold": False, "images": 8},
        inr={"kind": "selected"},
        loss={"recon": 0.0, "reg": 0.0, "hint": 2.0},
        fit={"gamma": [0.5, 0.5]},
    )
    fitter = Fitter(*prepared(build, recipe), recipe)
    parts = fitter.stepper.take(torch.arange(40))
    assert parts["hint"] > 0
    assert "distill" not in parts  # the checkpoint runs for its features alone
    assert parts["loss"] == pytest.approx(parts["task"] + parts["hint"])
    later = fitter.stepper.take(torch.arange(40), Place(1, 2))
    assert later["hint"] < 0.7 * parts["hint"]


def test_channels_that_the_checkpoint_lacks_have_no_hints(build, image_folder) -> None:
    recipe = recipe_for(
        image_folder,
        scope="all",
        norm={"fold": False, "images": 8},
        inr={"kind": "selected"},
        loss={"hint": 2.0},
        fit={"gamma": [-0.25, -0.25], "anchors": [0.5]},
    )
    fitter = Fitter(*prepared(build, recipe), recipe)
    assert fitter.stepper.take(torch.arange(40))["hint"] > 0


def test_hints_that_no_forward_pass_gives_are_refused(build) -> None:
    manifold, _, padding, hints = hinted(build, "lenet")
    some = {next(iter(hints.readers)): torch.ones(2, 4)}
    with pytest.raises(NeumetaError, match=r"loss\.hint: no forward pass calls"):
        hints.loss({}, some, manifold.frame.sizes(0.5), padding)


@pytest.mark.parametrize("fields", [{"inr": {"kind": "mlp"}}, {"fit": {"views": 2}}])
def test_hints_need_channels_that_are_kept_and_images(image_folder, fields) -> None:
    inr = {"inr": {"kind": "selected"}} | fields
    with pytest.raises(NeumetaError, match=r"loss\.hint needs inr\.kind: selected"):
        recipe_for(image_folder, loss={"hint": 1.0}, **inr)


def test_hints_that_nothing_reads_are_refused(build) -> None:
    model, arch = build("lenet")
    size = arch.default_input_size()
    manifold, _ = build_manifold(
        model, arch, size, "all", True, inr_settings("selected"), NoiseSection(samples=1)
    )
    manifold.frame = replace(manifold.frame, scope=())
    with pytest.raises(NeumetaError, match=r"loss\.hint: no convolution or linear layer"):
        Hints(manifold)
