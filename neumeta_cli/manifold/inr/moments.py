"""What a layer reads, on average, and how channels that are missing are made of those left."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-3  # of the mean square of a channel, added to those that others are made of

Measure = Callable[[Sequence[str]], Iterator[tuple[str, "Moments"]]]
"""Gives what the layers with these weights read, of each of which it can, in their order."""


@dataclass(frozen=True)
class Moments:
    """Second moments of the channels that a layer reads.

    Of three channels the last is always the sum of the others. Without it, a layer computes the
    same if what it reads the last with is added to what it reads the others with::

        >>> x = torch.randn(100, 2, dtype=torch.float64) @ torch.tensor([[1.0, 0, 1], [0, 1, 1]])
        >>> moments = Moments((x.T @ x / 100)[None], torch.arange(3)[:, None])
        >>> moments.rebuild(torch.tensor([[5.0, 6.0, 7.0]]), torch.tensor([0, 1]), ridge=1e-9)
        tensor([[7.0000, 7.0000, 0.0000]], dtype=torch.float64)

    Attributes:
        products: (groups, C · taps, C · taps), the means of x xᵀ, in float64 on the CPU; x less its
            mean where a norm takes that away; more than one group in grouped convolutions.
        places: (C, repeats), the columns of the weight that read each channel, more than one where
            a map was flattened.
        taps: how many numbers x has of a channel: its pixels below a kernel, or one, if they are
            taken for alike.

    """

    products: Tensor
    places: Tensor
    taps: int = 1

    def rebuild(self, weight: Tensor, kept: Tensor, ridge: float = RIDGE) -> Tensor:
        """How a weight changes where it reads what is kept, so that it gives what it gave.

        With second moments C, what is kept S and the rest R, ``W[:, R] · C[R, S] · C[S, S]⁻¹``: the
        least squares of its outputs' change over what was seen (as in He et al., ICCV 2017, whose
        channel pruning solves it for each layer).

        Args:
            weight: (C_out, C_in, …).
            kept: ascending places along C_in.
            ridge: of the mean of the diagonal of C[S, S], added to it.

        Returns:
            Float64 of the weight's shape on the CPU, zero where nothing is kept.

        """
        whole = weight.detach().cpu().double()
        change = torch.zeros_like(whole)
        stays = torch.isin(self.places[:, 0], kept.cpu())
        if stays.all() or not (stays.any() and self.products.isfinite().all()):
            return change
        here, gone = self.places[stays], self.places[~stays]
        own = stays.repeat_interleave(self.taps)
        left = self.products[:, own][:, :, own]
        size = left.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(torch.float32).tiny)
        left = left + ridge * torch.diag_embed(size[:, None].expand(left.shape[:2]))
        made_of = torch.linalg.solve(left, self.products[:, own][:, :, ~own])
        groups = len(self.products), len(whole) // len(self.products)
        lost = whole[:, gone].reshape(*groups, len(gone) * self.taps, -1)
        added = torch.einsum("gorp,gsr->gosp", lost, made_of)
        change[:, here] = added.reshape(len(whole), *here.shape, *whole.shape[2:])
        return change
