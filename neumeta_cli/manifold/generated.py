"""From what an INR gives to a network's tensors."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from neumeta_cli.manifold.inr import Inr, Target
from neumeta_cli.resize import Frame, added_names


def turned_back(targets: Sequence[Target], weights: Sequence[Tensor]) -> dict[str, Tensor]:
    """Generated tensors by name, their dimensions in the network's order."""
    pairs = zip(targets, weights, strict=True)
    return {t.spec.name: t.spec.layout.turn_back(w) for t, w in pairs}


def own_memory(tensor: Tensor) -> Tensor:
    """A copy with the plain strides that a file gives back.

    A 1×1 kernel may pass for contiguous with other strides, and kernels then round otherwise.
    """
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def resampled(
    name: str, tensor: Tensor, shape: Sequence[int], places: Mapping[tuple[str, int], Tensor]
) -> Tensor:
    """A tensor at a shape: its channels in these places, or evenly spread ones."""
    for dim, (old, new) in enumerate(zip(tensor.shape, shape, strict=True)):
        index = places.get((name, dim))
        if index is None or len(index) != new:
            if old == new:
                continue
            index = torch.arange(new, device=tensor.device) * old // new
        tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor


def additions(
    inr: Inr,
    frame: Frame,
    targets: Sequence[Target],
    made: Mapping[str, Tensor],
    trained: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    """The tensors of blocks that are added: those of a copy, and what the INR has beside.

    Args:
        inr: that has learnt something of them, or not.
        frame: says how many follow which block.
        targets: of the tensors in ``made``.
        made: those of the checkpoint's blocks.
        trained: names of the tensors whose copies gradients are to reach; all if None.

    """
    copies = frame.copied(made)
    chosen = None if trained is None else set(trained)
    for target in targets:
        spec = target.spec
        for name in added_names(spec.name, frame.added):
            change = inr.addition(name, target)
            if change is not None:
                change = spec.layout.turn_back(change)
                fixed = chosen is not None and spec.name not in chosen
                copies[name] = copies[name] + (change.detach() if fixed else change)
    return copies
