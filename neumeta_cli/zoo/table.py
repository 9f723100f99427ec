"""Our networks by name."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from neumeta_cli.zoo.cifar_resnet import (
    cifar_resnet20,
    cifar_resnet32,
    cifar_resnet44,
    cifar_resnet56,
)
from neumeta_cli.zoo.lenet import lenet, lenet_digits
from neumeta_cli.zoo.unet import unet_resnet18
from neumeta_cli.zoo.vae import vae_celeba, vae_mnist


@dataclass(frozen=True)
class Entry:
    """A network of ours: how to build it, the (C, H, W) that it takes, and their mean and std."""

    build: Callable[..., nn.Module]
    input_size: tuple[int, int, int]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


ZOO: dict[str, Entry] = {
    "lenet": Entry(lenet, (1, 28, 28), (0.1307,), (0.3081,)),
    "lenet_digits": Entry(lenet_digits, (1, 8, 8), (0.5,), (0.5,)),
    "cifar_resnet20": Entry(cifar_resnet20, (3, 32, 32)),
    "cifar_resnet32": Entry(cifar_resnet32, (3, 32, 32)),
    "cifar_resnet44": Entry(cifar_resnet44, (3, 32, 32)),
    "cifar_resnet56": Entry(cifar_resnet56, (3, 32, 32)),
    "unet_resnet18": Entry(unet_resnet18, (3, 256, 256)),
    "vae_mnist": Entry(vae_mnist, (1, 28, 28), (0.0,), (1.0,)),
    "vae_celeba": Entry(vae_celeba, (3, 64, 64), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
