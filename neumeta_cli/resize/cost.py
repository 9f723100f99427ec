"""What a network costs to store and to run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neumeta_cli.trace import Inputs, meta_inputs, on_meta
from neumeta_cli.trace.dispatch import DispatchMode
from neumeta_cli.trace.fast_shapes import POINTWISE, PRODUCTS, REDUCED
from neumeta_cli.trace.fast_shapes import run as run_fast


@dataclass(frozen=True)
class Cost:
    """Parameters, multiply-accumulates of one input, and bytes of the weights as stored."""

    parameters: int
    macs: int
    bytes: int


def measure_cost(model: nn.Module, inputs: Inputs) -> Cost:
    """Count on meta tensors; nothing is computed.

    Args:
        model: any network.
        inputs: the size of its input, (C, H, W), or example tensors.

    """
    counter = _Counter()
    with torch.no_grad(), torch.device("meta"), counter:
        args, kwargs = meta_inputs(model, inputs, batch=1)
        on_meta(model)(*args, **kwargs)
    tensors = model.state_dict().values()
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        macs=counter.flops // 2,
        bytes=sum(t.numel() * t.element_size() for t in tensors),
    )


class _Counter(DispatchMode):
    """Counts what PyTorch's ``FlopCounterMode`` counts.

    That one imports PyTorch's compiler and Triton, which together take as long as PyTorch, so its
    formulas are asked only for operators that are neither convolutions nor plain products.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:  # what an operator is made of is counted
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        out = run_fast(func, args, kwargs)
        self.flops += _flops(func.overloadpacket, args, kwargs, out)
        return out


def _flops(op: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> int:
    name = op.__name__
    if name in PRODUCTS:
        return 2 * int(math.prod(out.shape) * args[REDUCED[name][0]].shape[-1])
    if name == "convolution":
        x, weight, transposed = args[0], args[1], args[6]
        places = (x if transposed else out).shape[2:]
        return 2 * int(math.prod((x.shape[0], *places, *weight.shape)))
    if costs_nothing(name) or sum(isinstance(a, Tensor) for a in (*args, *kwargs.values())) < 2:
        return 0
    from torch.utils.flop_counter import flop_registry

    formula = flop_registry.get(op)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))


def costs_nothing(name: str) -> bool:
    """Whether an operator, by its name in ATen, is one that nobody counts."""
    return name.rstrip("_") in POINTWISE or name in POINTWISE or "norm" in name
