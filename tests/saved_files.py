"""Networks whose files people wrap in many ways, and what their tests share."""

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neumeta_cli.checkpoint import load_checkpoint

HERE = "saved_files"
State = dict[str, Any]


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(1))


def plain() -> nn.Module:
    """Layers of several names at the top."""
    names = ("conv", "norm", "act", "flat")
    return nn.Sequential(collections.OrderedDict(zip(names, layers(), strict=True)))


class Inside(nn.Module):
    """All layers of the network lie under one name of its own."""

    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule(self.name)(x)


def in_net() -> nn.Module:
    return Inside("net", layers())


def in_model() -> nn.Module:
    return Inside("model", layers())


def in_module() -> nn.Module:
    return Inside("module", layers())


def in_model_in_module() -> nn.Module:
    return Inside("model", in_module())


class Renaming(nn.Linear):
    """Its weight had another name in earlier versions, which it changes itself."""

    def _load_from_state_dict(self, state: State, prefix: str, *rest: Any) -> None:
        if f"{prefix}kernel" in state:
            state[f"{prefix}weight"] = state.pop(f"{prefix}kernel")
        super()._load_from_state_dict(state, prefix, *rest)


def renaming() -> nn.Module:
    return nn.Sequential(Renaming(5, 3))


def trained(factory: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network whose weights and statistics matter."""
    torch.manual_seed(seed)
    model = factory()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def same(loaded: nn.Module, saved: nn.Module, shape: tuple[int, ...] = (2, 3, 8, 8)) -> bool:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return torch.equal(loaded(x), saved(x))


def opened(path: Path, factory: Callable[..., nn.Module], **more: Any) -> nn.Module:
    return load_checkpoint(path, f"{factory.__module__}:{factory.__name__}", **more).model
