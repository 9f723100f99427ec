"""Batch norm when widths change: statistics that belong to no width."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

CALIBRATION_BATCH = 256  # images at most
CALIBRATION_NUMBERS = 1 << 22  # in the inputs of one batch, at most; 27 images of 224×224


def has_statistics(module: nn.Module) -> bool:
    """Whether a module normalises with stored statistics."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None


def drop_statistics(module: Any) -> None:
    """Take a norm's statistics away, so that it uses those of the batch, in evaluation too."""
    module.running_mean = module.running_var = module.num_batches_tracked = None


def calibration_batches(count: int, numbers: int) -> list[slice]:
    """Which images go together, so that memory is bounded: parts of like size.

    Args:
        count: of the images.
        numbers: in one of them, C·H·W.

    """
    most = max(1, min(CALIBRATION_BATCH, CALIBRATION_NUMBERS // max(1, numbers)))
    parts = max(1, -(-count // most))
    bounds = [count * part // parts for part in range(parts + 1)]
    return [slice(*pair) for pair in itertools.pairwise(bounds)]


@torch.no_grad()
def calibrate(model: nn.Module, norms: Sequence[str], inputs: Tensor | Iterable[Tensor]) -> None:
    """Set the statistics of these norms to what they see on ``inputs``, without labels.

    The average over batches, as slimmable networks do it (Yu and Huang, 2019).

    Args:
        model: a network in evaluation mode; changed in place.
        norms: names of its batch norms.
        inputs: (n, C, H, W), or such batches one after another.

    """
    if isinstance(inputs, Tensor):
        whole = inputs
        inputs = (whole[s] for s in calibration_batches(len(whole), whole[:1].numel()))
    modules: list[Any] = [model.get_submodule(name) for name in norms]
    momenta = [module.momentum for module in modules]
    for module in modules:
        module.reset_running_stats()
        module.momentum = None  # a plain average
        module.train()
    for batch in inputs:
        model(batch)
    for module, momentum in zip(modules, momenta, strict=True):
        module.momentum = momentum
        module.eval()
