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
    """A network of ours: how to build it, and the (C, H, W) that it takes."""

    build: Callable[..., nn.Module]
    input_size: tuple[int, int, int]


ZOO: dict[str, Entry] = {
    "lenet": Entry(lenet, (1, 28, 28)),
    "lenet_digits": Entry(lenet_digits, (1, 8, 8)),
    "cifar_resnet20": Entry(cifar_resnet20, (3, 32, 32)),
    "cifar_resnet32": Entry(cifar_resnet32, (3, 32, 32)),
    "cifar_resnet44": Entry(cifar_resnet44, (3, 32, 32)),
    "cifar_resnet56": Entry(cifar_resnet56, (3, 32, 32)),
    "unet_resnet18": Entry(unet_resnet18, (3, 256, 256)),
    "vae_mnist": Entry(vae_mnist, (1, 28, 28)),
    "vae_celeba": Entry(vae_celeba, (3, 64, 64)),
}
