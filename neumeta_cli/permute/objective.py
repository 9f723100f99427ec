"""Total variation, and the distances that a channel order adds up (equation 8)."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from neumeta_cli.trace import Member


def channel_rows(
    members: Sequence[Member], rows: np.ndarray, tensors: Mapping[str, Tensor]
) -> list[Tensor]:
    """Per member, its values in these rows of a clique as (rows, values per channel), float32.

    Integer tensors (counters) are left out: they are no function of the channel.
    """
    found = []
    for member in members:
        weight = tensors[member.weight]
        if not weight.is_floating_point():
            continue
        along = weight.detach().float().movedim(member.dim, 0)
        found.append(along[torch.from_numpy(member.positions[rows])].flatten(1))
    return found


def channel_distances(
    members: Sequence[Member], rows: np.ndarray, tensors: Mapping[str, Tensor]
) -> np.ndarray:
    """L1 distance between every two channels, summed over all member weights (equation 8).

    Args:
        members: those that count.
        rows: which rows of their positions.
        tensors: weights by name.

    Returns:
        (rows, rows), float64.

    """
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for values in channel_rows(members, rows, tensors):
        total += torch.cdist(values[None], values[None], p=1)[0]
    return total.numpy()


def path_length(distances: np.ndarray, order: np.ndarray) -> float:
    """Total variation of a clique whose channels stand in this order."""
    return float(distances[order[:-1], order[1:]].sum())
