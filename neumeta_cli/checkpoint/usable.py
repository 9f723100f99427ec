"""Tensors that are no weights to compute with: refused by name."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from neumeta_cli.checkpoint.weights import Weights
from neumeta_cli.errors import NeumetaError

EARLIER = "its training has failed: take an earlier checkpoint"
STATISTICS = ("running_mean", "running_var")


def check_usable(path: Path, weights: Weights, model: nn.Module) -> None:
    """Refuse tensors that a network cannot compute with, or whose numbers are none.

    Args:
        path: the file, for messages.
        weights: under the network's names.
        model: the network, also on the meta device.

    Raises:
        NeumetaError: names the first such tensor, what it is and what to save instead.

    """
    wanted = model.state_dict()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in weights.tensors.items():
        if name not in wanted:
            continue
        finite = name in parameters or name.endswith(STATISTICS)
        fault = _kind(tensor, wanted[name]) or _values(tensor, finite)
        if fault:
            raise NeumetaError(f"{path}: {weights.name_in_file(name)} {fault}")


def _kind(tensor: Tensor, like: Tensor) -> str:
    if tensor.is_quantized:
        return "is quantised; give the weights from before, or save it with .dequantize()"
    if tensor.is_nested or tensor.layout is not torch.strided:
        return "is sparse or nested; save it with .to_dense()"
    if tensor.is_meta:
        return "is on the meta device and has no values; save the network with its weights"
    if any(s == 0 and n > 1 for n, s in zip(tensor.shape, tensor.stride(), strict=True)):
        return "is an expanded tensor, which repeats few stored values; save it with .contiguous()"
    if like.is_floating_point() and (not tensor.is_floating_point() or tensor.itemsize == 1):
        dtype = str(tensor.dtype).removeprefix("torch.")
        return f"holds {dtype} numbers, not weights in floating point; save it with .float()"
    return ""


def _values(tensor: Tensor, finite: bool) -> str:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return ""
    if bool(tensor.isnan().any()):
        return f"has {int(tensor.isnan().sum()):,} values that are NaN; {EARLIER}"
    if finite and bool(tensor.isinf().any()):
        return f"has {int(tensor.isinf().sum()):,} infinite values; {EARLIER}"
    return ""


def looks_quantised(names: Iterable[str]) -> bool:
    """Whether names in a state dict are those of torch's quantised layers."""
    return any(n.endswith((".zero_point", "_packed_params.dtype")) for n in names)
