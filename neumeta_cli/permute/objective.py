"""Total variation, and the distances that a channel order adds up (equation 8)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neumeta_cli.choices import Norm, Weighting
from neumeta_cli.trace import Member


@dataclass(frozen=True)
class Objective:
    """What a short path is short in.

    Attributes:
        norm: of the difference of two channels within a member: ``l1`` is the paper's.
        weighting: ``none``, the paper's: every weight counts as it is; ``equal``: the members'
            mean distances are made equal; ``producer``: only the member that makes the channels
            counts, as in a travelling salesman of one matrix.

    """

    norm: Norm = "l1"
    weighting: Weighting = "none"


def channel_distances(
    members: Sequence[Member],
    rows: np.ndarray,
    tensors: Mapping[str, Tensor],
    objective: Objective = Objective(),
) -> np.ndarray:
    """Distance between every two channels, summed over the member weights (equation 8).

    Args:
        members: those that count, the producer first.
        rows: which rows of their positions.
        tensors: weights by name.
        objective: the norm and the weights of members.

    Returns:
        (rows, rows), float32; a sum of v values is off by about 1e-7 of itself.

    """
    from neumeta_cli.permute.compiled import add_l1, mirror

    n = len(rows)
    padded = -(-n // 4) * 4
    total = np.zeros((padded, padded), np.float32)
    for values in channel_rows(members, rows, tensors):
        added = np.zeros_like(total) if objective.weighting == "equal" else total
        if objective.norm == "l1":
            block = np.zeros((padded, values.shape[1]), np.float32)
            block[:n] = values.numpy()
            add_l1(block, added)
        else:
            added[:n, :n] += torch.cdist(values, values).numpy()
        if objective.weighting == "equal":
            total += added / (float(np.triu(added[:n, :n], 1).sum(dtype=np.float64)) or 1.0)
        elif objective.weighting == "producer":
            break
    mirror(total)
    return np.ascontiguousarray(total[:n, :n])


def channel_rows(
    members: Sequence[Member], rows: np.ndarray, tensors: Mapping[str, Tensor]
) -> Iterator[Tensor]:
    """Per member, its values in these rows of a clique: (rows, values per channel), float32.

    Integer tensors (counters) are left out: they are no function of the channel.
    """
    for member in members:
        weight = tensors[member.weight]
        if weight.is_floating_point():
            along = weight.detach().cpu().movedim(member.dim, 0)
            yield along[torch.from_numpy(member.positions[rows])].flatten(1).float()


def path_length(distances: np.ndarray, order: np.ndarray) -> float:
    """Total variation of a clique whose channels stand in this order."""
    return float(distances[order[:-1], order[1:]].sum(dtype=np.float64))
