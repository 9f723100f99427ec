"""What a manifold is compared with: structured pruning of the same checkpoint."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from neumeta_cli.resize import build_resized, select_channels
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
        norm = torch.zeros(clique.rows, dtype=torch.float64)
        for member in clique.members:
            if member.weight in parameters:
                along = tensors[member.weight].detach().double().abs().movedim(member.dim, 0)
                norm += along[torch.from_numpy(member.positions)].flatten(1).sum(1)
        by_copy = norm.reshape(clique.copies, clique.channels)
        order = torch.argsort(by_copy, dim=1, descending=True, stable=True).numpy()
        first = np.arange(clique.copies)[:, None] * clique.channels
        kept[clique.name] = np.sort((first + order[:, : sizes[clique.name]]).ravel())
    own = {n: t.clone() for n, t in select_channels(tensors, trace, kept).items()}
    return build_resized(model, trace, sizes, own)
