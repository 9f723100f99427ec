"""Keeping some channels of each clique: what structured pruning does."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from neumeta_cli.trace import Clique, Trace


def rank_channels(
    clique: "Clique", tensors: Mapping[str, Tensor], parameters: Collection[str]
) -> np.ndarray:
    """Rank the channels of each copy of a clique by their ℓ1 norm over all members.

    Args:
        clique: of the network.
        tensors: weights by name.
        parameters: the names that count.

    Returns:
        (rows,), 0 for the largest norm.

    """
    norm = torch.zeros(clique.rows, dtype=torch.float64)
    for member in clique.members:
        if member.weight in parameters:
            along = tensors[member.weight].detach().double().abs().movedim(member.dim, 0)
            norm += along[torch.from_numpy(member.positions)].flatten(1).sum(1)
    return ranks_of(norm, clique)


def ranks_of(importance: Tensor, clique: "Clique") -> np.ndarray:
    """Rank the channels of each copy of a clique, (rows,), 0 for the most important one.

    Where copies lie between one another's channels (channels × heads), all have one order, as what
    is left must still be channels × heads.

    Args:
        importance: (rows,).
        clique: whose channels these are.

    """
    by_copy = importance.reshape(clique.copies, clique.channels)
    if clique.interleaved:
        by_copy = by_copy.sum(0, keepdim=True).expand_as(by_copy)
    order = torch.argsort(by_copy, dim=1, descending=True, stable=True)
    return torch.argsort(order, dim=1).flatten().numpy()


def kept_places(
    shapes: Mapping[str, tuple[int, ...]], trace: "Trace", kept: Mapping[str, np.ndarray]
) -> dict[tuple[str, int], np.ndarray]:
    """Where along each dimension the channels lie that stay.

    Args:
        shapes: of the weights by name.
        trace: of the network that they belong to.
        kept: clique name to rows (of each copy equally many); other cliques stay whole.

    Returns:
        For each (weight, dimension) with a member in ``kept``, the indices in ascending order.

    """
    masks: dict[tuple[str, int], np.ndarray] = {}
    for clique in trace.cliques:
        if clique.name not in kept:
            continue
        gone = np.setdiff1d(np.arange(clique.rows), kept[clique.name])
        for member in clique.members:
            size = shapes[member.weight][member.dim]
            mask = masks.setdefault((member.weight, member.dim), np.ones(size, bool))
            mask[member.positions[gone]] = False
    return {place: np.flatnonzero(mask) for place, mask in masks.items()}


def select_channels(
    tensors: Mapping[str, Tensor], trace: "Trace", kept: Mapping[str, np.ndarray]
) -> dict[str, Tensor]:
    """Drop all channels of a clique but ``kept[clique]`` from every member.

    Args:
        tensors: weights by name; those outside the cliques named stay as they are.
        trace: of the network that they belong to.
        kept: clique name to rows (of each copy equally many); the channels keep their order.

    """
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    selected = dict(tensors)
    for (name, dim), places in kept_places(shapes, trace, kept).items():
        index = torch.from_numpy(places).to(selected[name].device)
        selected[name] = selected[name].index_select(dim, index)
    return selected


def place_channels(
    tensor: Tensor, places: Mapping[int, np.ndarray | Tensor], shape: Sequence[int]
) -> Tensor:
    """The tensor in a larger one of zeros: the reverse of selecting.

    Args:
        tensor: (…).
        places: dimension to the ascending places that its entries take; all others agree.
        shape: of the result.

    """
    own = {d: at for d, at in places.items() if shape[d] != tensor.shape[d]}
    if not own:
        return tensor
    if all(isinstance(at, np.ndarray) and at[-1] == len(at) - 1 for at in own.values()):
        # Zeros at the end: one operation. Reading a tensor's value would take as long as another.
        missing = [new - old for new, old in zip(shape, tensor.shape, strict=True)]
        return F.pad(tensor, [n for more in reversed(missing) for n in (0, more)])
    for dim, at in own.items():
        wide = tensor.new_zeros([shape[d] if d == dim else n for d, n in enumerate(tensor.shape)])
        tensor = wide.index_copy(dim, torch.as_tensor(at, device=tensor.device), tensor)
    return tensor
