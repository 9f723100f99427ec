"""Whether two networks compute the same function."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from neumeta_cli.trace import Inputs, random_inputs
from neumeta_cli.trace.dispatch import DispatchMode
from neumeta_cli.trace.inputs import BATCH


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


class _NoRounding(DispatchMode):
    """Leaves out casts from float64 to lower precision."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        lower = kwargs.get("dtype") in (torch.float32, torch.float16, torch.bfloat16)
        if func is torch.ops.aten._to_copy.default and lower and args[0].dtype == torch.float64:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)
