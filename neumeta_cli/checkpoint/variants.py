"""Builds of a library's network other than its default, and what libraries rename in old files."""

import inspect
import math
import re
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from neumeta_cli.checkpoint.arch import Arch

if TYPE_CHECKING:
    from neumeta_cli.checkpoint.fitting import Mismatch

CLASS_TOKENS = (1, 0, 2)  # beside the patches' that position embeddings may have
DENSE_LAYER = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)$")  # old densenets'


def other_builds(
    arch: Arch, model: nn.Module, mismatch: "Mismatch", shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Arguments of a library's factory with which less may differ; none that are not already given.

    Args:
        arch: timm's, torchvision's or ours; a user's factory gets none.
        model: what it builds.
        mismatch: how a state dict differs from it.
        shapes: of the state dict's tensors, by the network's names.

    """
    library = arch.name.partition("/")[0]
    if ":" in arch.name:
        return {}
    found = _shapes(library, arch, mismatch)
    if library == "torchvision":
        found |= _auxiliary(mismatch)
    if library == "timm":
        found |= _heads(arch, model, mismatch, shapes)
    return {key: value for key, value in found.items() if arch.kwargs.get(key) != value}


def library_renamings(
    arch: Arch, model: nn.Module, tensors: Mapping[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """State dicts as the library, or the network's own modules, change those of old files.

    A change that makes other values, such as position embeddings for another size, is left out.
    """
    ways = [_by_modules, *_filters(arch)]
    if arch.name.startswith("torchvision/densenet"):
        ways.append(_dense_layers)
    sizes = {tensor.numel() for tensor in tensors.values()}
    known = {id(tensor) for tensor in tensors.values()}
    for way in ways:
        try:
            changed = way(dict(tensors), model)
        except Exception:  # made for files of another kind
            continue
        whole = all(isinstance(t, Tensor) for t in changed.values())
        if whole and all(id(t) in known or t.numel() in sizes for t in changed.values()):
            yield changed


def _shapes(library: str, arch: Arch, mismatch: "Mismatch") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, got, wanted in mismatch.reshaped:
        if name.endswith("pos_embed") and len(got) == 3 and library == "timm":
            side = _side(arch, got[1], wanted[1])
            found |= {"img_size": side} if side else {}
        elif name.endswith("pos_embedding") and len(got) == 3 and library == "torchvision":
            side = _side(arch, got[1], wanted[1])
            found |= {"image_size": side} if side else {}
        elif name.endswith("weight") and got[:1] == wanted[:1] and got[1:] == (2 * wanted[1],):
            found["global_pool"] = "catavgmax"
        elif got[1:] == wanted[1:]:
            found["num_classes"] = got[0]
        elif library == "timm" and got[:1] + got[2:] == wanted[:1] + wanted[2:]:
            found["in_chans"] = got[1]
    return found


def _side(arch: Arch, got: int, wanted: int) -> int | None:
    """The height and width of images for which there are ``got`` position embeddings."""
    for extra in CLASS_TOKENS:
        grid, usual = math.isqrt(max(got - extra, 0)), math.isqrt(max(wanted - extra, 0))
        if grid and usual and (grid**2, usual**2) == (got - extra, wanted - extra):
            return arch.default_input_size()[1] * grid // usual
    return None


def _auxiliary(mismatch: "Mismatch") -> dict[str, Any]:
    """Heads that torchvision trains beside the last one."""
    found: dict[str, Any] = {}
    if _all_begin(mismatch.missing, "aux1.", "aux2.", "AuxLogits."):
        found["aux_logits"] = False
    if _all_begin(mismatch.unexpected, "aux_classifier."):
        found["aux_loss"] = True
    return found


def _heads(
    arch: Arch, model: nn.Module, mismatch: "Mismatch", shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """What timm puts between the features and the classes."""
    missing, unexpected = mismatch.missing, mismatch.unexpected
    if any(name.startswith("attn_pool.") for name in unexpected):
        return {"global_pool": "map"}
    if _all_begin(unexpected, "fc_norm.") and _all_begin(missing, "norm.", "attn_pool."):
        return {"global_pool": "avg"}
    normed = all(name.startswith("norm.") for name in unexpected)
    if normed and _all_begin(missing, "fc_norm.", "attn_pool."):
        return {"global_pool": "token"}
    classifiers = getattr(model, "default_cfg", {}).get("classifier") or ()
    heads = (classifiers,) if isinstance(classifiers, str) else classifiers
    own = [name for head in heads for name in unexpected if name == f"{head}.weight"]
    if own:  # of a network that the library has without classes
        return {"num_classes": shapes[own[0]][0]}
    headless = _all_begin(missing, *(f"{head}." for head in heads))
    if headless and "num_classes" not in arch.kwargs:  # else a user wants them
        return {"num_classes": 0}
    return {}


def _all_begin(names: list[str], *begins: str) -> bool:
    return bool(names) and bool(begins) and all(name.startswith(begins) for name in names)


def _by_modules(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """As modules change the names of earlier versions of themselves while they load them."""
    state: OrderedDict[str, Tensor] = OrderedDict(tensors)
    for name, module in model.named_modules():
        kind = type(module)
        own = kind._load_from_state_dict is not nn.Module._load_from_state_dict
        users = own and not kind.__module__.startswith("torch.")
        if users or module._load_state_dict_pre_hooks:
            with warnings.catch_warnings(action="ignore"):  # nothing is copied to the meta device
                module._load_from_state_dict(state, f"{name}." * bool(name), {}, False, [], [], [])
    return dict(state)


def _filters(arch: Arch) -> list[Any]:
    """The functions with which timm changes files for a model, as ``checkpoint_filter_fn``."""
    if not arch.name.startswith("timm/"):
        return []
    import timm

    module = sys.modules[timm.model_entrypoint(arch.short).__module__]
    named = [f for name, f in vars(module).items() if "filter" in name and inspect.isfunction(f)]
    return [_two_arguments(f) for f in named if f.__module__ == module.__name__]


def _two_arguments(function: Any) -> Any:
    takes = len(inspect.signature(function).parameters) > 1
    return function if takes else lambda tensors, model: function(tensors)


def _dense_layers(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """``denselayer1.norm.1.weight`` of the oldest files is ``denselayer1.norm1.weight`` now."""
    return {DENSE_LAYER.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}
