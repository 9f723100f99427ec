"""What a layer reads, and how its weights make up for channels that are missing."""

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


@dataclass(frozen=True)
class Normed:
    """What a norm of each image or token alone reads.

    With fewer channels their mean and their size are others. Where two of four channels are left
    that are twice as large as the others, the norm makes them smaller, and its weight makes up::

        >>> sign = torch.tensor([[1.0, 1, -1, -1], [-1, 1, -1, 1]])
        >>> normed = Normed(sign * torch.tensor([2.0, 2, 1, 1]), eps=0.0, centred=False)
        >>> normed.weight_change(torch.ones(4), False, torch.tensor([0, 1]))
        tensor([0.2649, 0.2649, 0.0000, 0.0000], dtype=torch.float64)

    Attributes:
        rows: (n, C), some of what it was given, channels last.
        eps: of the norm.
        centred: whether it takes the mean away, as layer norms do and RMS norms do not.

    """

    rows: Tensor
    eps: float
    centred: bool

    def normalised(self, rows: Tensor) -> Tensor:
        """What it gives before its weight and bias, (n, C), in float64."""
        rows = rows.double()
        if self.centred:
            rows = rows - rows.mean(1, keepdim=True)
        return rows / (rows.square().mean(1, keepdim=True) + self.eps).sqrt()

    def weight_change(self, weight: Tensor, biased: bool, kept: Tensor) -> Tensor:
        """How the weight changes so that the channels left come out as they did.

        Args:
            weight: (C,), the norm's.
            biased: whether it has a bias too.
            kept: ascending places of the channels that are left.

        Returns:
            (C,), float64 on the CPU, zero where nothing is kept.

        """
        return self._placed(weight, kept, self._line(biased, kept.cpu())[0] - 1)

    def bias_change(self, weight: Tensor, kept: Tensor) -> Tensor:
        """The same of the bias."""
        return self._placed(weight, kept, self._line(True, kept.cpu())[1])

    def _line(self, biased: bool, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Of each channel, from what is given without the others to what was given with them.

        Least squares; the line goes through zero where there is no bias.

        Returns:
            Its slope and its height at zero, each (kept,).

        """
        whole, left = self.normalised(self.rows)[:, kept], self.normalised(self.rows[:, kept])
        mean, own = (x.mean(0) if biased else torch.zeros(()) for x in (whole, left))
        size = (left - own).square().mean(0).clamp(min=torch.finfo(torch.float32).tiny)
        slope = ((whole - mean) * (left - own)).mean(0) / size
        return slope, mean - slope * own

    @staticmethod
    def _placed(weight: Tensor, kept: Tensor, factors: Tensor) -> Tensor:
        made, at = torch.zeros(len(weight), dtype=torch.float64), kept.cpu()
        made[at] = weight.detach().cpu().double()[at] * factors
        return made
