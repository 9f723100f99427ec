"""Whether two networks compute the same function."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from neumeta_cli.trace import Inputs, random_inputs
from neumeta_cli.trace.dispatch import DispatchMode
from neumeta_cli.trace.inputs import BATCH

ATEN = torch.ops.aten
MAKING = frozenset(  # operators that make tensors of a dtype
    [
        *(ATEN.zeros, ATEN.ones, ATEN.full, ATEN.empty, ATEN.arange, ATEN.linspace, ATEN.eye),
        *(ATEN.zeros_like, ATEN.ones_like, ATEN.full_like, ATEN.empty_like, ATEN.scalar_tensor),
        *(ATEN.new_zeros, ATEN.new_ones, ATEN.new_full, ATEN.new_empty),
    ]
)


def invariance_error(before: nn.Module, after: nn.Module, inputs: Inputs, seed: int = 0) -> float:
    """Largest difference of the two networks' outputs over the largest output, in float64.

    Some networks compute a part in float32 whatever their weights are; here they do not, where
    they run that way.

    Args:
        before: a network; it is left as it is.
        after: another, of the same inputs and outputs.
        inputs: the size of the input, or examples; values are drawn at random.
        seed: of the values.

    """
    networks = [copy.deepcopy(network).double().eval() for network in (before, after)]
    with _making_doubles():
        try:
            with _NoRounding():
                one, two = (_outputs(network, inputs, seed) for network in networks)
        except RuntimeError:  # two dtypes that do not mix
            one, two = (_outputs(network, inputs, seed) for network in networks)
    return max(
        float((a - b).abs().max() / a.abs().max().clamp(min=1e-300))
        for a, b in zip(one, two, strict=True)
    )


def _outputs(network: nn.Module, inputs: Inputs, seed: int) -> list[Tensor]:
    batch = BATCH if any(map(_needs_several, network.modules())) else 1
    args, kwargs = random_inputs(network, inputs, batch, seed)
    with torch.no_grad():
        leaves = tree_leaves(network(*args, **kwargs))
    return [t.double() for t in leaves if isinstance(t, Tensor)]


def _needs_several(module: nn.Module) -> bool:
    """Whether a module normalises with the statistics of the batch at hand."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None


@contextmanager
def _making_doubles() -> Iterator[None]:
    """Tensors that a forward makes, such as the first state of a recurrent layer, are float64."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


class _NoRounding(DispatchMode):
    """Leaves out casts from float64 to lower precision, and makes no tensor of that."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        lower = kwargs.get("dtype") in (torch.float32, torch.float16, torch.bfloat16)
        cast = func is torch.ops.aten._to_copy.default and args[0].dtype == torch.float64
        if lower and (cast or func.overloadpacket in MAKING):
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)
