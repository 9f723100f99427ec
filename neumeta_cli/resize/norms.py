"""Batch norm when widths change: statistics that belong to no width."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

CALIBRATION_BATCH = 256


def has_statistics(module: nn.Module) -> bool:
    """Whether a module normalises with stored statistics."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None


def drop_statistics(module: Any) -> None:
    """Take a norm's statistics away, so that it uses those of the batch, in evaluation too."""
    module.running_mean = module.running_var = module.num_batches_tracked = None


@torch.no_grad()
def calibrate(model: nn.Module, norms: Sequence[str], inputs: Tensor) -> None:
    """Set the statistics of these norms to what they see on ``inputs``, without labels.

    The average over batches of 256, as slimmable networks do it (Yu and Huang, 2019).

    Args:
        model: a network in evaluation mode; changed in place.
        norms: names of its batch norms.
        inputs: (n, C, H, W).

    """
    modules: list[Any] = [model.get_submodule(name) for name in norms]
    momenta = [module.momentum for module in modules]
    for module in modules:
        module.reset_running_stats()
        module.momentum = None  # a plain average
        module.train()
    for batch in inputs.split(CALIBRATION_BATCH):
        model(batch)
    for module, momentum in zip(modules, momenta, strict=True):
        module.momentum = momentum
        module.eval()
