"""Shapes of the commonest operators, without PyTorch's own meta functions.

Those are written in Python and take most of the time of a trace; the first of them also imports
SymPy, which takes a third as long as PyTorch. What is not covered here, or is called in an unusual
way, goes to them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from neumeta_cli.trace.dispatch import DispatchMode

POINTWISE = frozenset(
    [
        "relu",
        "silu",
        "gelu",
        "sigmoid",
        "tanh",
        "hardswish",
        "hardsigmoid",
        "leaky_relu",
        "elu",
        "mish",
        "neg",
        "exp",
        "sqrt",
        "rsqrt",
        "add",
        "sub",
        "mul",
        "div",
        "clone",
        "dropout",
        "_softmax",
        "_safe_softmax",
    ]
)
PRODUCTS: dict[str, Callable[..., tuple[int, ...]]] = {
    "mm": lambda a, b: (a.shape[0], b.shape[1]),
    "addmm": lambda _, a, b: (a.shape[0], b.shape[1]),
    "bmm": lambda a, b: (a.shape[0], a.shape[1], b.shape[2]),
}
REDUCED = {"mm": (0, 1), "addmm": (1, 2), "bmm": (0, 1)}  # operands whose sizes must meet


class FastShapes(DispatchMode):
    """Within it, networks run on meta tensors by these."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result of an ATen operator on meta tensors."""
    name = func.overloadpacket.__name__
    tensors = [a for a in args if isinstance(a, Tensor)]
    usual = tensors and not kwargs and all(_same(t, tensors[0]) for t in tensors)
    if usual and isinstance(args[0], Tensor):
        if name.rstrip("_") in POINTWISE or name in POINTWISE:
            shape = _broadcast(tensors)
            if not name.endswith("_"):
                return _empty(shape, tensors[0])
            if shape == args[0].shape:
                return args[0]
        if name in PRODUCTS:
            a, b = (args[i] for i in REDUCED[name])
            if a.shape[-1] == b.shape[-2] and a.shape[:-2] == b.shape[:-2]:
                return _empty(PRODUCTS[name](*args), a)
        if name == "convolution" and len(args) == 9 and not args[6]:
            return _empty(_convolved(*args), tensors[0])
        if name == "max_pool2d_with_indices" and (pooled := _pooled(*args)) is not None:
            return _empty(pooled, args[0]), _empty(pooled, args[0], torch.int64)
        if name == "_native_batch_norm_legit_no_training" or (
            name == "native_batch_norm" and not args[5]
        ):
            return _empty(args[0].shape, args[0]), _empty((0,), args[0]), _empty((0,), args[0])
        if name == "native_layer_norm":
            lead = args[0].dim() - len(args[1])
            statistics = (*args[0].shape[:lead], *(1 for _ in args[1]))
            return tuple(_empty(s, args[0]) for s in (args[0].shape, statistics, statistics))
    return func(*args, **kwargs)


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> tuple[int, ...]:
    channels, made = weight.shape[1] * groups, weight.shape[0]
    if x.shape[1] != channels or made % groups or x.dim() != weight.dim():
        raise RuntimeError(
            f"a convolution of {channels} to {made} channels in {groups} groups got {x.shape[1]}"
        )
    sizes = (
        (n + 2 * _at(padding, i) - _at(dilation, i) * (k - 1) - 1) // _at(stride, i) + 1
        for i, (n, k) in enumerate(zip(x.shape[2:], weight.shape[2:], strict=True))
    )
    return (x.shape[0], made, *sizes)


def _pooled(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil: bool = False,
) -> tuple[int, ...] | None:
    if x.dim() != 4 or ceil:
        return None
    sizes = []
    for i, n in enumerate(x.shape[2:]):
        k, pad = _at(kernel, i), _at(padding, i)
        sizes.append((n + 2 * pad - _at(dilation, i) * (k - 1) - 1) // _at(stride or kernel, i) + 1)
        if sizes[i] < 1 or 2 * pad > k:
            return None  # what PyTorch refuses
    return (*x.shape[:2], *sizes)


def _at(numbers: Sequence[int], place: int) -> int:
    return numbers[place] if len(numbers) > 1 else numbers[0]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.dtype.is_floating_point and a.is_meta


def _broadcast(tensors: Sequence[Tensor]) -> torch.Size:
    first = tensors[0].shape
    if all(t.shape == first for t in tensors):
        return first
    shape: torch.Size = torch.broadcast_shapes(*(t.shape for t in tensors))
    return shape


def _empty(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    made: Tensor = torch.ops.aten.empty.memory_format(
        shape, dtype=dtype or like.dtype, device=like.device
    )
    return made
