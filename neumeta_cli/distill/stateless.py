"""Running a structure with weights that are not its own, from one set of them to the next."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.func import functional_call

# Of each network the dictionaries that its modules have as attributes: a module's name and theirs,
# and what is in them before any run. Names, as the modules themselves would keep it alive.
_known: WeakKeyDictionary[nn.Module, list[tuple[str, str, dict[Any, Any]]]] = WeakKeyDictionary()


def run_with(network: nn.Module, weights: Mapping[str, Tensor], inputs: tuple[Any, ...]) -> Any:
    """What a network gives with these weights.

    In evaluation mode some modules keep tables that they made of their weights, as timm's LeViT and
    TinyViT do with attention biases. They are forgotten before and after, as other weights make
    other ones; tensors that a module has had from the first stay.
    """
    _forget(network)
    try:
        return functional_call(network, dict(weights), inputs)
    finally:
        _forget(network)


def _forget(network: nn.Module) -> None:
    if network not in _known:
        _known[network] = [
            (path, name, {key: v for key, v in value.items() if not _is_made(v)})
            for path, module in network.named_modules()
            for name, value in vars(module).items()
            if type(value) is dict and not name.startswith("_")
        ]
    for path, name, own in _known[network]:
        kept = getattr(network.get_submodule(path), name)
        if any(isinstance(v, Tensor) and v is not own.get(key) for key, v in kept.items()):
            kept.clear()
            kept.update(own)


def _is_made(value: Any) -> bool:
    """Whether a value was computed from weights that are trained."""
    return isinstance(value, Tensor) and value.grad_fn is not None
