"""What networks return: a tensor, or tensors in tuples and dicts."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only


def as_float(outputs: Any) -> Any:
    """Outputs of autocast in float32."""
    return tree_map_only(Tensor, lambda t: t.float() if t.is_floating_point() else t, outputs)


def tensors_of(outputs: Any) -> list[Tensor]:
    """The tensors in a network's outputs."""
    return [t for t in tree_leaves(outputs) if isinstance(t, Tensor)]


def close(one: Any, two: Any, rtol: float, atol: float) -> bool:
    """Whether two networks gave the same up to rounding."""
    pairs = zip(tensors_of(one), tensors_of(two), strict=True)
    return all(torch.allclose(a, b, rtol=rtol, atol=atol) for a, b in pairs)
