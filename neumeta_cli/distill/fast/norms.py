"""Batch norms of a fit that are quick with few channels."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from neumeta_cli.training.synced import BatchNorms, Running

LANES = 16  # channels that torch's CPU kernels are quick with, and multiples of them
LEAST_CHANNELS = 32  # of a view of neighbouring pixels


class QuickNorms(BatchNorms):
    """Batch norms of images whose channels come last, where torch's CPU kernels are slow.

    These are three to five times slower with a number of channels that is no multiple of 16. The
    same memory is also an image with neighbouring pixels in place of one and their channels side by
    side: quick kernels run on that, and statistics of the copies of a channel are put together.
    """

    def over_batch(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, running: Running
    ) -> Tensor:
        pixels, (mean, variance, momentum) = _pixels_together(x), running
        if pixels == 1 or mean is not None:
            return F.batch_norm(x, mean, variance, weight, bias, True, momentum, eps)
        kind = torch.float64 if x.dtype == torch.float64 else torch.float32
        scale = x.new_ones(x.shape[1], dtype=kind) if weight is None else weight.to(kind)
        shift = x.new_zeros(x.shape[1], dtype=kind) if bias is None else bias.to(kind)
        # The views are left to autograd: what a layer after the norm changes in place is its own.
        return _parted(_ByPixels.apply(_merged(x, pixels), scale, shift, eps, pixels), x.shape)


def _pixels_together(x: Tensor) -> int:
    """How many neighbouring pixels pass as one; 1 where torch's own kernel is as good."""
    if x.device.type != "cpu" or x.dim() != 4 or x.shape[1] % LANES == 0 or x.shape[1] == 1:
        return 1
    if not x.is_contiguous(memory_format=torch.channels_last):
        return 1
    channels, pixels = x.shape[1], LANES // math.gcd(x.shape[1], LANES)
    while channels * pixels < LEAST_CHANNELS:
        pixels *= 2
    return pixels if (x.shape[2] * x.shape[3]) % pixels == 0 else 1


class _ByPixels(torch.autograd.Function):
    """Batch norm of a view of ``pixels`` neighbours as one pixel of as many more channels."""

    @staticmethod
    def forward(
        ctx: Any, wide: Tensor, weight: Tensor, bias: Tensor, eps: float, pixels: int
    ) -> Tensor:
        # Running statistics are not kept, but statistics are computed in their type.
        mean, variance = weight.new_zeros(2, wide.shape[1]).unbind()
        own = torch.batch_norm_update_stats(wide, mean, variance, 0.0)
        means, variances = (t.view(pixels, -1) for t in own)
        variance, mean = torch.var_mean(means, 0, correction=0)
        variance = variance + variances.mean(0)
        weights, biases, mean, variance = _for_pixels(pixels, weight, bias, mean, variance)
        made = torch.native_batch_norm(wide, weights, biases, mean, variance, False, 0.0, eps)
        ctx.save_for_backward(wide, weights, mean, variance)
        ctx.eps, ctx.pixels = eps, pixels
        return made[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """As if the statistics were constants; then what the input does through them."""
        wide, weights, mean, variance = ctx.saved_tensors
        pixels, channels = ctx.pixels, wide.shape[1] // ctx.pixels
        above = gradient.contiguous(memory_format=torch.channels_last)
        below, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            above, wide, weights, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        by_weight, by_bias = torch.stack([by_weight, by_bias]).view(2, pixels, channels).sum(1)
        weight, mean, variance = weights[:channels], mean[:channels], variance[:channels] + ctx.eps
        share = -weight * variance.rsqrt() * (channels / wide.numel())
        slope, offset, mean = _for_pixels(pixels, share * by_weight, share * by_bias, mean)
        through = torch.native_batch_norm(
            wide, slope, offset, mean, variance.repeat(pixels), False, 0.0, 0.0
        )
        return below.add_(through[0]), by_weight, by_bias, None, None


def _for_pixels(pixels: int, *values: Tensor) -> tuple[Tensor, ...]:
    """Values of channels, once for each of the pixels that pass as one."""
    return torch.stack(values).repeat(1, pixels).unbind()


def _merged(x: Tensor, pixels: int) -> Tensor:
    """(b, C, H, W), channels last, as (b, pixels · C, H · W / pixels, 1) of the same memory."""
    images, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).view(images, height * width // pixels, 1, pixels * channels)
    return rows.permute(0, 3, 1, 2)


def _parted(wide: Tensor, shape: torch.Size) -> Tensor:
    images, channels, height, width = shape
    return wide.permute(0, 2, 3, 1).reshape(images, height, width, channels).permute(0, 3, 1, 2)
