"""Batch norms whose statistics are those of the batches of all processes together."""

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Running(NamedTuple):
    """Statistics that a norm keeps, if it does, and how fast they follow those of batches."""

    mean: Tensor | None
    variance: Tensor | None
    momentum: float


class BatchNorms(TorchFunctionMode):
    """Take the place of batch norms that use the statistics of the batch."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is not F.batch_norm:
            return func(*args, **(kwargs or {}))
        return self._normalise(*args, **(kwargs or {}))

    def _normalise(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        return self.over_batch(x, weight, bias, eps, Running(running_mean, running_var, momentum))

    @abstractmethod
    def over_batch(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, running: Running
    ) -> Tensor:
        """``F.batch_norm`` in training."""


class SyncedNorms(BatchNorms):
    """Batch norms that see a batch in parts use the statistics of the whole batch.

    As ``torch.nn.SyncBatchNorm``, for any device and for norms that functional calls run.
    """

    def over_batch(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, running: Running
    ) -> Tensor:
        from torch.distributed.nn.functional import all_reduce

        wide = x if x.dtype == torch.float64 else x.float()
        dims = [0, *range(2, x.dim())]
        shape = (1, -1, *(1,) * (x.dim() - 2))
        count = wide.new_tensor([wide.numel() / wide.shape[1]])
        total: Tensor = all_reduce(torch.cat([wide.sum(dims), count]))
        mean, count = total[:-1] / total[-1], total[-1].detach()
        centred = wide - mean.view(shape)
        variance: Tensor = all_reduce(centred.square().sum(dims)) / count
        with torch.no_grad():
            if running.mean is not None:
                running.mean.lerp_(mean.to(running.mean), running.momentum)
            if running.variance is not None:
                unbiased = variance * (count / (count - 1))
                running.variance.lerp_(unbiased.to(running.variance), running.momentum)
        normal = centred * (variance + eps).rsqrt().view(shape)
        if weight is not None:
            normal = normal * weight.view(shape)
        return (normal if bias is None else normal + bias.view(shape)).to(x.dtype)
