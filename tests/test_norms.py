"""Batch norms of a fit's steps, against torch's own."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from neumeta_cli.distill.fast.norms import QuickNorms, _pixels_together

KINDS = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 3e-2}


@given(
    channels=st.integers(1, 49),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kind=st.sampled_from(list(KINDS)),
    affine=st.booleans(),
    offset=st.sampled_from([0.0, 3.0]),
    last=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_quick_norms_and_their_gradients_are_torchs(
    channels: int, size: tuple[int, int], kind: torch.dtype, affine: bool, offset: float, last: bool
) -> None:
    generator = torch.Generator().manual_seed(channels)
    layout = torch.channels_last if last else torch.contiguous_format
    x, above = (torch.randn(5, channels, *size, generator=generator) for _ in range(2))
    x = (x + offset).to(kind).contiguous(memory_format=layout).requires_grad_()
    parameters = [torch.rand(channels, generator=generator) + 0.5 for _ in range(2 * affine)]
    parameters = [
        p.to(torch.promote_types(kind, torch.float32)).requires_grad_() for p in parameters
    ]
    weight, bias = parameters or (None, None)
    found = []
    for quick in (False, True):
        if quick:
            with QuickNorms():
                y = F.batch_norm(x, None, None, weight, bias, training=True)
        else:
            y = F.batch_norm(x, None, None, weight, bias, training=True)
        assert y.dtype == kind
        found.append((y, *torch.autograd.grad(y, [x, *parameters], above.to(kind))))
    for own, torchs in zip(*found, strict=True):
        largest = max(1.0, torchs.abs().max().item())
        torch.testing.assert_close(own, torchs, rtol=0, atol=KINDS[kind] * largest)


@pytest.mark.parametrize("offset", [0.0, 3.0, 30.0])
def test_statistics_of_bfloat16_are_not_rounded(offset: float) -> None:
    """Against the norm of the same numbers in float64: the output alone is rounded."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(32, 12, 16, 16, generator=generator) + offset).bfloat16()
    x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.ones(12), torch.zeros(12)
    with QuickNorms():
        y = F.batch_norm(x, None, None, weight, bias, training=True)
    exact = F.batch_norm(x.double(), None, None, training=True)
    assert y.double().mean((0, 2, 3)).abs().max() < 2e-3
    torch.testing.assert_close(y.double(), exact, rtol=2**-8, atol=1e-3)


def test_what_follows_a_norm_may_change_it_in_place() -> None:
    """As the ReLU and the sum of torchvision's residual blocks do."""
    found = []
    for quick in (False, True):
        x = torch.randn(4, 12, 8, 8, generator=torch.Generator().manual_seed(0))
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        with QuickNorms() if quick else nullcontext():
            y = F.batch_norm(x, None, None, torch.ones(12), torch.zeros(12), training=True)
            y += x
            F.relu(y, inplace=True)
        found.append((y, *torch.autograd.grad(y.square().sum(), [x])))
    for own, torchs in zip(*found, strict=True):
        torch.testing.assert_close(own, torchs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "size", "pixels"), [(8, 32, 4), (24, 16, 2), (16, 32, 1), (13, 8, 16), (13, 5, 1)]
)
def test_which_norms_are_taken_over(channels: int, size: int, pixels: int) -> None:
    x = torch.zeros(2, channels, size, size)
    assert _pixels_together(x.contiguous(memory_format=torch.channels_last)) == pixels
    assert _pixels_together(x) == 1  # channels first: torch's own kernels are quick


def test_norms_with_statistics_of_their_own_are_left_alone() -> None:
    x = torch.randn(4, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    mean, variance = torch.randn(8), torch.rand(8) + 0.5
    with QuickNorms():
        kept = F.batch_norm(x, mean, variance)
        updated = mean.clone(), variance.clone()
        F.batch_norm(x, *updated, training=True)
    torch.testing.assert_close(kept, F.batch_norm(x, mean, variance), rtol=0, atol=0)
    assert not torch.equal(updated[0], mean)
