"""Functions that run as others of the same result while a network is traced.

Their own operators hide what a rule must know: ``repeat_interleave`` picks elements by an index
tensor, which says nothing on the meta device; as an expanded view it is plain.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def _repeat_interleave(
    x: Tensor, repeats: Any, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    if not isinstance(repeats, int) or dim is None:
        return torch.repeat_interleave(x, repeats, dim, output_size=output_size)
    dim %= x.dim()
    shape = [*x.shape[: dim + 1], repeats, *x.shape[dim + 1 :]]
    return x.unsqueeze(dim + 1).expand(shape).flatten(dim, dim + 1)


SUBSTITUTES: dict[Any, Callable[..., Any]] = {
    torch.repeat_interleave: _repeat_interleave,
    Tensor.repeat_interleave: _repeat_interleave,
}


class Substitutes(TorchFunctionMode):
    """Runs the substitutes."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return SUBSTITUTES.get(func, func)(*args, **(kwargs or {}))
