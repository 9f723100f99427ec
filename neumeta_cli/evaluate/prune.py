"""Structured pruning of the checkpoint by ℓ1 norm: the same in fits and comparisons."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from neumeta_cli.resize import Frame, rank_channels, select_channels

L1_PRUNING = "ℓ1 pruning"  # in tables


def prune_l1(frame: Frame, tensors: Mapping[str, Tensor], sizes: Mapping[str, int]) -> nn.Module:
    """Keep in each clique the channels of largest ℓ1 norm (Li et al., 2017), without fine-tuning.

    Args:
        frame: of the network.
        tensors: its weights.
        sizes: clique name to channels to keep.

    """
    kept = {}
    for clique in frame.trace.cliques:
        if clique.name not in sizes:
            continue
        rank = rank_channels(clique, tensors, frame.layouts.keys())
        kept[clique.name] = np.flatnonzero(rank < sizes[clique.name])
    own = {n: t.clone() for n, t in select_channels(tensors, frame.trace, kept).items()}
    return frame.build(sizes, own)
