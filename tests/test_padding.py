"""Channels of zero weight change nothing, and are only added where they change nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from neumeta_cli.checkpoint import resolve
from neumeta_cli.distill.fast.padding import Padding
from neumeta_cli.manifold import build_manifold, inr_settings
from neumeta_cli.manifold.settings import NoiseSection
from tests.conftest import relative_error


def padded(build, name: str, fold: bool):
    model, arch = build(name)
    list(model.parameters())[-1].add_(5.0)  # SqueezeNet's scores are behind a ReLU
    size = arch.default_input_size()
    manifold, tensors = build_manifold(
        model, arch, size, "all", fold, inr_settings("selected"), NoiseSection()
    )
    return manifold, Padding(manifold, tensors, torch.randn(2, *size)), size


class Normalised(nn.Module):
    """A norm over channels, whose number is a multiple at the width that is tried."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.norm, self.fc = nn.LayerNorm(channels), nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.conv(x).mean((2, 3))))


@pytest.mark.parametrize("channels", [7, 14, 20, 48, 62, 96])
def test_channels_that_a_layer_norm_counts_are_not_added(channels: int) -> None:
    arch = resolve("cifar_resnet20")  # only its name is taken
    model = Normalised(channels).requires_grad_(False)
    manifold, tensors = build_manifold(
        model, arch, (3, 8, 8), "all", False, inr_settings("selected"), NoiseSection()
    )
    assert not Padding(manifold, tensors, torch.randn(2, 3, 8, 8)).active


@pytest.mark.slow
@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("name", ["lenet", "cifar_resnet20", "squeezenet1_1"])
def test_a_padded_network_computes_the_same(build, name: str, fold: bool) -> None:
    manifold, padding, size = padded(build, name, fold)
    assert padding.active
    torch.manual_seed(0)
    x = torch.randn(3, *size, dtype=torch.float64)
    upstream = torch.randn(3, 1000, dtype=torch.float64)

    @settings(max_examples=4, deadline=None)
    @given(st.lists(st.floats(0.05, 1.0), min_size=64, max_size=64))
    def check(widths: list[float]) -> None:
        own = dict(zip(manifold.frame.scope, widths, strict=False))
        sizes = manifold.frame.sizes(own)
        wider = padding.sizes(sizes)
        found = []
        for chosen, pad in ((sizes, lambda t: t), (wider, lambda t: padding.pad(t, sizes))):
            made = {n: t.double().requires_grad_() for n, t in manifold.generate(sizes).items()}
            fixed = manifold.fixed_at(chosen, statistics=False)
            tensors = {n: t.double() for n, t in fixed.items()} | pad(made)
            scores = functional_call(manifold.skeleton(chosen), tensors, (x,))
            gradients = torch.autograd.grad(
                (scores * upstream[:, : scores.shape[1]]).sum(), list(made.values())
            )
            found.append([scores, *gradients])
        assert all(n % padding.multiple == 0 or n == padding.full[c] for c, n in wider.items())
        assert relative_error(found[1][0].detach(), found[0][0].detach()) < 1e-9
        assert float(found[0][0].detach().abs().max()) > 0
        scale = max(float(g.abs().max()) for g in found[0][1:])
        for ours, theirs in zip(found[1][1:], found[0][1:], strict=True):
            assert float((ours - theirs).abs().max()) <= 1e-7 * scale

    check()


def test_a_norm_over_channels_is_left_alone(build) -> None:
    manifold, padding, _ = padded(build, "timm/test_vit", False)
    sizes = manifold.frame.sizes(0.58)
    assert not padding.active
    assert padding.sizes(sizes) == sizes


def test_a_network_that_grows_is_left_alone(build) -> None:
    manifold, padding, _ = padded(build, "cifar_resnet20", False)
    sizes = manifold.frame.sizes(1.3)
    assert padding.sizes(sizes) == sizes
