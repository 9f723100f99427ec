"""What a network takes: one tensor of a size, or several given by example."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Sequence[int] | Sequence[Tensor] | Mapping[str, Tensor]
"""The size of one input without the batch; or example tensors, batch included, by place or name."""

BATCH = 2


def meta_inputs(
    model: nn.Module, inputs: Inputs, batch: int = BATCH
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Arguments for ``model`` on the meta device.

    Args:
        model: an input of which only the size is known gets the dtype of its weights.
        inputs: what it takes.
        batch: size of the batch where ``inputs`` does not say.

    """
    return _arguments(model, inputs, batch, lambda t: t.to("meta"))


def random_inputs(
    model: nn.Module, inputs: Inputs, batch: int = BATCH, seed: int = 0
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Arguments for ``model`` drawn at random, on its device and in its dtype.

    Whole numbers (tokens) are drawn from 0 and 1, which any vocabulary has.
    """
    generator = torch.Generator().manual_seed(seed)
    first = next(model.parameters())
    own = first.dtype if first.is_floating_point() else torch.float32

    def draw(like: Tensor) -> Tensor:
        if like.is_floating_point():
            made = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(own)
        else:
            made = torch.randint(0, 2, like.shape, generator=generator).to(like.dtype)
        return made.to(first.device)

    return _arguments(model, inputs, batch, draw)


def describe(inputs: Inputs) -> str:
    """Sizes in words."""
    if isinstance(inputs, Mapping):
        return ", ".join(f"{n} {'×'.join(map(str, t.shape))}" for n, t in inputs.items())
    if inputs and isinstance(inputs[0], Tensor):
        return " and ".join("×".join(map(str, t.shape)) for t in inputs if isinstance(t, Tensor))
    return "×".join(map(str, inputs))


def _arguments(
    model: nn.Module, inputs: Inputs, batch: int, make: Any
) -> tuple[list[Tensor], dict[str, Tensor]]:
    if isinstance(inputs, Mapping):
        return [], {name: make(t) for name, t in inputs.items()}
    if inputs and isinstance(inputs[0], Tensor):
        return [make(t) for t in inputs], {}
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    size = [n for n in inputs if isinstance(n, int)]
    return [make(torch.empty(batch, *size, dtype=dtype, device="meta"))], {}
