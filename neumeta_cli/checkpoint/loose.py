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
        for key, value in vars(module).items():
            if key not in REGISTERED and isinstance(value, Tensor | list | tuple | dict):
                yield from (t for t in tree_leaves(value) if isinstance(t, Tensor))
