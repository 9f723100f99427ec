"""A checkpoint's tensor as a grid that can be read between its channels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neumeta_cli.manifold.inr.coordinates import Noise


class Grid(nn.Module):
    """The checkpoint's tensor, learnt itself where there are no changes, and the changes.

    Args:
        weight: the tensor.
        changes: as channels go missing.
        deep: as blocks go missing.

    """

    whole: Tensor

    def __init__(
        self, weight: Tensor, changes: Sequence[Tensor], deep: Sequence[Tensor] = ()
    ) -> None:
        super().__init__()
        if changes:
            self.register_buffer("whole", weight.clone())
        else:
            self.whole = nn.Parameter(weight.clone())
        self.changes = nn.ParameterList(changes)
        self.deep = nn.ParameterList(deep)


def along(weight: Tensor, dim: int, size: int, kept: Tensor | None, noise: Noise | None) -> Tensor:
    """Values along a dimension at ``size`` evenly spread places among those that are kept."""
    if kept is None and size == weight.shape[dim] and noise is None:
        return weight
    count = weight.shape[dim] if kept is None else len(kept)
    perturbed = noise is not None and noise.channels
    if count == size and not perturbed:
        return weight if kept is None else weight.index_select(dim, kept)
    at = torch.arange(size, dtype=weight.dtype, device=weight.device)
    if noise is not None and perturbed:
        at = at + noise.channels * noise.draw(size, like=weight)
    at = (at * (count / size)).clamp(0, count - 1)
    below = at.floor().long()
    above = (below + 1).clamp(max=count - 1)
    share = (at - below).view(-1, *(1,) * (weight.dim() - 1 - dim))
    if kept is not None:
        below, above = kept[below], kept[above]
    return torch.lerp(weight.index_select(dim, below), weight.index_select(dim, above), share)
