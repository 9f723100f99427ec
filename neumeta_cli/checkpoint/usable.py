"""Tensors that are no weights, and layers that cannot be resized: refused by name."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from neumeta_cli.checkpoint.weights import Weights
from neumeta_cli.errors import NeumetaError

EARLIER = "its training has failed: take an earlier checkpoint"
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
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
        if name.endswith("running_var") and not fault and bool((tensor < 0).any()):
            fault = (
                f"has {int((tensor < 0).sum()):,} negative values, which no variance has; {EARLIER}"
            )
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


def check_resizable(name: str, model: nn.Module, fold: bool) -> None:
    """Refuse layers of which a fit would end well and its manifold could not be used.

    Args:
        name: of the architecture, for messages.
        model: the network.
        fold: whether batch norms are to be folded into the layers before them.

    Raises:
        NeumetaError: names the first such layer and what to do.

    """
    check_hooks(model, f"{name}: ")
    norms = [m for m in model.modules() if isinstance(m, NORMS)]
    for where, module in model.named_modules():
        hooks = module._forward_pre_hooks.values()
        if fold and norms and any(isinstance(hook, SpectralNorm) for hook in hooks):
            instead = "use torch.nn.utils.parametrizations.spectral_norm, or norm.fold=false"
            raise NeumetaError(f"{name}: {_made_by_hook(where)}; {instead}")
        if isinstance(module, NORMS) and module.running_mean is None:
            raise NeumetaError(
                f"{name}: {where} keeps no statistics, which narrower networks need; "
                "build it with track_running_stats=True"
            )


def check_hooks(model: nn.Module, owner: str = "") -> None:
    """Refuse layers whose weight is no parameter, but made of others by a hook.

    Args:
        model: the network.
        owner: what it is, for messages: begins them.

    Raises:
        NeumetaError: names the first such layer and what to do.

    """
    for where, module in model.named_modules():
        hooks = list(module._forward_pre_hooks.values())
        made = [key for key, value in vars(module).items() if _is_made(value)]
        if any(isinstance(hook, WeightNorm) for hook in hooks):
            instead = "use torch.nn.utils.parametrizations.weight_norm, or remove_weight_norm"
        elif any(isinstance(hook, prune.BasePruningMethod) for hook in hooks):
            instead = "call torch.nn.utils.prune.remove on it and save the network again"
        elif made:
            raise NeumetaError(
                f"{owner}{where or 'the network'} keeps {made[0]}, which was computed of its "
                "parameters when it was built, and cannot be resized; compute it in forward, or "
                "with torch.nn.utils.parametrize"
            )
        else:
            continue
        raise NeumetaError(f"{owner}{_made_by_hook(where)}; {instead}")


def _made_by_hook(where: str) -> str:
    return f"a hook makes the weight of {where}, which cannot be resized"


def _is_made(value: object) -> bool:
    """Whether a value is a tensor that was computed of parameters."""
    return isinstance(value, Tensor) and not value.is_leaf
