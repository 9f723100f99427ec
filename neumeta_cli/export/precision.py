"""Number formats of exported networks, and how far rounding may move their outputs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from neumeta_cli.checkpoint import InputSize
from neumeta_cli.choices import NUMBER_FORMATS
from neumeta_cli.errors import NeumetaError

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in NUMBER_FORMATS}
# Relative errors: float32 for what folding rounds otherwise, the others ten times their precision.
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 8e-2}


def check_dtype(name: str) -> torch.dtype:
    """The type of that name.

    Raises:
        NeumetaError: it is none that networks are exported in.

    """
    if name not in DTYPES:
        raise NeumetaError(f"unknown number format {name!r}; use one of {', '.join(DTYPES)}")
    return DTYPES[name]


def example(size: InputSize, batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The same random images at every call, (batch, C, H, W)."""
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, *size, generator=generator).to(dtype)


@torch.no_grad()
def outputs_of(model: Any, images: Tensor) -> list[Tensor]:
    """All tensors that a network gives, in float32."""
    return [t.float() for t in tree_leaves(model(images)) if isinstance(t, Tensor)]


def relative_error(got: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest difference over the largest magnitude; infinite where outputs do not match."""
    if [t.shape for t in got] != [t.shape for t in wanted]:
        return float("inf")
    errors = [
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))
        for a, b in zip(got, wanted, strict=True)
        if b.numel()
    ]
    worst = max(errors, default=0.0)
    return worst if worst == worst else float("inf")  # not a number: an overflow on the way


def convert(model: nn.Module, dtype: str, size: InputSize, wanted: list[Tensor]) -> nn.Module:
    """Give a network's numbers a format, in place.

    Args:
        model: the network.
        dtype: name of the format.
        size: (C, H, W) of one input.
        wanted: its outputs on ``example(size, 2)`` as it was sampled.

    Raises:
        NeumetaError: outputs move by more than goes with the format.

    """
    model.to(DTYPES[dtype])
    error = relative_error(outputs_of(model, example(size, 2, DTYPES[dtype])), wanted)
    if not error <= TOLERANCE[dtype]:
        raise NeumetaError(
            f"in {dtype} the network's outputs move by {error:.1e} of the largest, more than "
            f"{TOLERANCE[dtype]:.0e}; nothing is written; export it in "
            f"{'bfloat16 or ' if dtype == 'float16' else ''}float32"
        )
    return model


def accept_float32(model: nn.Module) -> nn.Module:
    """Let a network of half precision take float32 images, in place."""
    dtype = next((p.dtype for p in model.parameters()), torch.float32)

    def cast(_: nn.Module, inputs: Any) -> Any:
        return tree_map(lambda t: t.to(dtype) if t.is_floating_point() else t, inputs)

    if dtype != torch.float32:
        model.register_forward_pre_hook(cast)
    return model
