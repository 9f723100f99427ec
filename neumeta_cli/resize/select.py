"""Keeping some channels of each clique: what structured pruning does."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from neumeta_cli.trace import Trace


def select_channels(
    tensors: Mapping[str, Tensor], trace: Trace, kept: Mapping[str, np.ndarray]
) -> dict[str, Tensor]:
    """Drop all channels of a clique but ``kept[clique]`` from every member.

    Args:
        tensors: weights by name; those outside the cliques named stay as they are.
        trace: of the network that they belong to.
        kept: clique name to rows (of each copy equally many); the channels keep their order.

    """
    masks: dict[tuple[str, int], np.ndarray] = {}
    for clique in trace.cliques:
        if clique.name not in kept:
            continue
        gone = np.setdiff1d(np.arange(clique.rows), kept[clique.name])
        for member in clique.members:
            size = tensors[member.weight].shape[member.dim]
            mask = masks.setdefault((member.weight, member.dim), np.ones(size, bool))
            mask[member.positions[gone]] = False
    selected = dict(tensors)
    for (name, dim), mask in masks.items():
        index = torch.from_numpy(np.flatnonzero(mask)).to(selected[name].device)
        selected[name] = selected[name].index_select(dim, index)
    return selected
