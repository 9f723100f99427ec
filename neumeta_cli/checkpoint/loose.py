"""Tensors that modules keep without telling torch, as plain attributes."""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

REGISTERED = frozenset(("_parameters", "_buffers", "_modules"))


def register_tensors(model: nn.Module) -> nn.Module:
    """Make buffers of the tensors that are plain attributes, such as ``self.mean = torch.tensor``.

    They then follow the network to another device, and its copies. No file holds them. Those of a
    layer with hooks stay, as hooks write them anew.
    """
    for module in model.modules():
        if module._forward_pre_hooks:
            continue
        own = [k for k, v in vars(module).items() if isinstance(v, Tensor) and v.is_leaf]
        for key in own:
            if not hasattr(type(module), key):
                module.register_buffer(key, module.__dict__.pop(key), persistent=False)
    return model


def loose_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Tensors in attributes of modules, also within their lists and dictionaries."""
    for module in model.modules():
        for attribute in _attributes(module).values():
            yield from attribute


def unsaved_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """What a network needs beside its state dict: tensors that its constructor makes, by name.

    What hooks write anew is left out.
    """
    stored = model.state_dict()
    found = [(name, buffer) for name, buffer in model.named_buffers() if name not in stored]
    for where, module in model.named_modules():
        if not module._forward_pre_hooks:
            for key, tensors in _attributes(module).items():
                found += [(f"{where}.{key}" if where else key, t) for t in tensors if t.is_leaf]
    return found


def _attributes(module: nn.Module) -> dict[str, list[Tensor]]:
    """The tensors in each attribute of a module that are neither parameters nor buffers."""
    found = {}
    for key, value in vars(module).items():
        if key not in REGISTERED and _may_hold(value):
            found[key] = [t for t in tree_leaves(value) if _is_loose(t)]
    return found


def _may_hold(value: object) -> bool:
    """Whether there may be tensors in a value; quick, as modules have dozens of them."""
    if isinstance(value, tuple | list):
        return not all(type(item) is int for item in value)
    return isinstance(value, Tensor) or (isinstance(value, dict) and len(value) > 0)


def _is_loose(value: object) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
