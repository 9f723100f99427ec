"""Running a structure with weights that are not its own, from one set of them to the next."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.func import functional_call

_with_tables: WeakKeyDictionary[nn.Module, list[tuple[nn.Module, str]]] = WeakKeyDictionary()


def run_with(network: nn.Module, weights: Mapping[str, Tensor], inputs: tuple[Any, ...]) -> Any:
    """What a network gives with these weights.

    In evaluation mode some modules keep tables that they made of their weights, as timm's LeViT and
    TinyViT do with attention biases. They are forgotten before and after, as other weights make
    other ones.
    """
    _forget(network)
    try:
        return functional_call(network, dict(weights), inputs)
    finally:
        _forget(network)


def _forget(network: nn.Module) -> None:
    if network not in _with_tables:
        _with_tables[network] = [
            (module, name)
            for module in network.modules()
            for name, value in vars(module).items()
            if type(value) is dict and not name.startswith("_")
        ]
    for module, name in _with_tables[network]:
        kept = getattr(module, name)
        if any(isinstance(value, Tensor) for value in kept.values()):
            setattr(module, name, {})
