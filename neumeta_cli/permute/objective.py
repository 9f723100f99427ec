"""Total variation, and the distances that a channel order adds up (equation 8)."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from neumeta_cli.trace import Clique


def channel_rows(clique: Clique, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Per member, its values as (channels, values per channel), float32.

    Integer tensors (counters) are left out: they are no function of the channel.
    """
    rows = []
    for member in clique.members:
        weight = tensors[member.weight]
        if not weight.is_floating_point():
            continue
        along = weight.detach().float().movedim(member.dim, 0)
        rows.append(along[torch.from_numpy(member.positions)].flatten(1))
    return rows


def channel_distances(clique: Clique, tensors: Mapping[str, Tensor]) -> np.ndarray:
    """L1 distance between every two channels, summed over all member weights (equation 8).

    Returns:
        (channels, channels), float64.

    """
    total = torch.zeros(clique.channels, clique.channels, dtype=torch.float64)
    for rows in channel_rows(clique, tensors):
        total += torch.cdist(rows[None], rows[None], p=1)[0]
    return total.numpy()


def path_length(distances: np.ndarray, order: np.ndarray) -> float:
    """Total variation of a clique whose channels stand in this order."""
    return float(distances[order[:-1], order[1:]].sum())
