"""The precision of an INR's parameters in the manifold's file."""

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ":scale"  # beside a tensor in 8 bits, one for each output channel
LEVELS = 127


def pack(state: Mapping[str, Tensor], store: str) -> dict[str, Tensor]:
    """An INR's state as its file holds it.

    Args:
        state: tensors by name; those that are no floating-point numbers stay as they are.
        store: ``float32``, ``float16``, or ``int8``: 8 bits for matrices and float16 for vectors.

    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if store == "float32" or not tensor.is_floating_point():
            packed[name] = tensor
        elif store == "int8" and tensor.dim() > 1:
            scale = _scale(tensor)
            packed[name + SCALE] = scale.flatten()
            packed[name] = (tensor / scale).round().clamp(-LEVELS, LEVELS).to(torch.int8)
        else:
            packed[name] = tensor.half()
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state again, in float32."""
    state = {}
    for name, tensor in packed.items():
        scale = packed.get(name + SCALE)
        if scale is not None:
            state[name] = tensor.float() * scale.view(-1, *(1,) * (tensor.dim() - 1))
        elif not name.endswith(SCALE):
            state[name] = tensor.float() if tensor.dtype == torch.float16 else tensor
    return state


def _scale(tensor: Tensor) -> Tensor:
    """The step of each output channel, of 11 bits, so that packing again finds the same one."""
    largest = tensor.float().abs().flatten(1).amax(1).view(-1, *(1,) * (tensor.dim() - 1))
    mantissa, exponent = torch.frexp(largest / LEVELS)
    step = torch.ldexp((mantissa * 2048).round() / 2048, exponent)
    return torch.where(largest > 0, step, 1.0)
