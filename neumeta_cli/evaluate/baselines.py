"""What a manifold is compared with: structured pruning of the same checkpoint."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from neumeta_cli.resize import build_resized, rank_channels, select_channels
from neumeta_cli.trace import Trace


def prune_l1(
    model: nn.Module, trace: Trace, tensors: Mapping[str, Tensor], sizes: Mapping[str, int]
) -> nn.Module:
    """Keep in each clique the channels of largest ℓ1 norm (Li et al., 2017), without fine-tuning.

    Args:
        model: the structure that ``trace`` describes.
        trace: of the network.
        tensors: its weights.
        sizes: clique name to channels to keep.

    """
    parameters = {name for name, _ in model.named_parameters()}
    kept = {}
    for clique in trace.cliques:
        if clique.name not in sizes:
            continue
        rank = rank_channels(clique, tensors, parameters)
        kept[clique.name] = np.flatnonzero(rank < sizes[clique.name])
    own = {n: t.clone() for n, t in select_channels(tensors, trace, kept).items()}
    return build_resized(model, trace, sizes, own)
