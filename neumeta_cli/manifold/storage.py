"""The precision of a manifold's tensors in its file."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

SCALE = ":scale"  # beside a tensor: what its numbers are multiplied by, in each output channel
LEVELS = 127  # of 8 bits, on either side of zero
EXACT = 0  # levels of a tensor that is stored as it is
LEAST = -126  # exponent of the least normal number in 32 or 16 bits
HALF = 15  # exponent below which the largest number of a vector lies in float16


Levels = Callable[[str, Tensor], int]


def pack(
    state: Mapping[str, Tensor], store: str, levels: Levels = lambda *_: LEVELS
) -> dict[str, Tensor]:
    """Tensors as the file holds them; packing again what was unpacked gives the same.

    Args:
        state: tensors by name, on the meta device where only types and shapes are wanted; those
            that are no floating-point numbers stay as they are.
        store: ``float32``, ``float16``, ``int8`` (8 bits for matrices and float16 for vectors), or
            ``compact`` (the same with scales of 16 bits, and a scale for each vector).
        levels: how many steps the largest number of an output channel of a matrix is above zero
            where it is compact, 1 to 127, or ``EXACT``.

    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        compact, matrix = store == "compact", tensor.dim() > 1
        most = levels(name, tensor) if compact and matrix else LEVELS
        if store == "float32" or most == EXACT or not tensor.is_floating_point():
            packed[name] = tensor
        elif matrix and store != "float16":
            scale = _scale(tensor, most, 256 if compact else 2048)
            packed[name + SCALE] = scale.flatten().to(torch.bfloat16 if compact else torch.float32)
            packed[name] = (tensor / scale).round().clamp(-most, most).to(torch.int8)
        elif compact:
            scale = _power(tensor)
            packed[name + SCALE] = scale.bfloat16()
            packed[name] = (tensor / scale).half()
        else:
            packed[name] = tensor.half()
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state again, in float32."""
    state = {}
    for name, tensor in packed.items():
        scale = packed.get(name + SCALE)
        if scale is not None:
            steps = scale.float().view(-1, *(1,) * (tensor.dim() - 1))
            state[name] = (tensor.float() * steps).view(tensor.shape)
        elif not name.endswith(SCALE):
            state[name] = tensor.float() if tensor.dtype == torch.float16 else tensor
    return state


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin with a prefix, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def plain_name(name: str) -> str:
    """Of the tensor that a name in ``pack``'s result belongs to."""
    return name.removesuffix(SCALE)


def _scale(tensor: Tensor, levels: int, precision: int) -> Tensor:
    """The step of each output channel, of few enough bits that packing again finds the same one."""
    largest = tensor.float().abs().flatten(1).amax(1).view(-1, *(1,) * (tensor.dim() - 1))
    mantissa, exponent = torch.frexp(largest / levels)
    step = torch.ldexp((mantissa * precision).round() / precision, exponent)
    return torch.where(largest > 0, step, 1.0)


def _power(tensor: Tensor) -> Tensor:
    """(1,) the power of two with which a vector makes the best of float16's range."""
    finite = tensor.float().nan_to_num(0.0, 0.0, 0.0).abs()
    largest = finite.flatten().amax(0, keepdim=True) if tensor.numel() else finite.new_zeros(1)
    mantissa, exponent = torch.frexp(largest)
    exponent = exponent + ((mantissa * 2048).round() == 2048)
    return torch.ldexp(torch.ones_like(largest), (exponent - HALF).clamp(min=LEAST))
