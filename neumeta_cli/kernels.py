"""Convolutions that stay away from kernels that are wrong on some processors."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

FEWEST = 8  # input channels of a group that the kernel is right with


class SafeConvolutions(TorchFunctionMode):
    """Within it, no convolution whose gradient may be asked for reaches a faulty kernel.

    The fault: oneDNN 3.12 (in torch 2.14) on x86 processors with AVX2 and without AVX-512 writes
    beyond its buffers in the gradient of the weights (or of the bias) of a 1×1 convolution with a
    stride, channels last, float32 and fewer than 8 input channels
    (``jit_avx2_1x1_convolution_bwd_weights_t``): it crashes, never returns or damages memory.
    Seen with 2 to 7 channels and stride 2; no other version was tried. All that was is in
    ``examples/results/robustness.md``.

    The way round: a 1×1 convolution with a stride reads every so many pixels and no others, so
    these are taken first and convolved with stride 1, which is exact, and as quick. Done for all
    processors, so that all compute the same. ``tests/test_kernels.py`` tells when the library has
    mended it and this class can go.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    steps = (stride, stride) if isinstance(stride, int) else tuple(stride) * (3 - len(stride))
    tiny = weight.shape[1] < FEWEST and weight.shape[2:] == (1, 1)
    if not tiny or max(steps) == 1 or input.device.type != "cpu":
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    if padding == "valid":
        padding = 0
    edges = (padding, padding) if isinstance(padding, int) else tuple(padding) * (3 - len(padding))
    if max(edges):
        input = F.pad(input, (edges[1], edges[1], edges[0], edges[0]))
    return F.conv2d(input[..., :: steps[0], :: steps[1]], weight, bias, 1, 0, 1, groups)
