"""Variational autoencoders (Kingma and Welling, 2014) for square images."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VAE(nn.Module):
    """Convolutions that halve the image to a code, and transposed ones back.

    Args:
        image_size: height and width of images, a multiple of 2 to the number of ``channels``.
        image_channels: 1 for grey, 3 for colour.
        channels: of each halving convolution.
        hidden: width of the linear layer on either side of the code.
        latent: numbers in the code.

    Input (B, image_channels, image_size, image_size); output the logits of the pixels in the same
    shape, and the code's mean and log-variance, (B, latent) each. The code is drawn in training and
    its mean in evaluation.

    """

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        channels: Sequence[int],
        hidden: int,
        latent: int,
    ) -> None:
        super().__init__()
        widths = [image_channels, *channels]
        pairs = list(itertools.pairwise(widths))
        self.side, self.deepest = image_size >> len(channels), channels[-1]
        flat = self.deepest * self.side**2
        self.encoder = nn.ModuleList(nn.Conv2d(a, b, 4, 2, padding=1) for a, b in pairs)
        self.to_hidden = nn.Linear(flat, hidden)
        self.mean = nn.Linear(hidden, latent)
        self.log_variance = nn.Linear(hidden, latent)
        self.from_code = nn.Linear(latent, hidden)
        self.to_image = nn.Linear(hidden, flat)
        self.decoder = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 4, 2, padding=1) for a, b in reversed(pairs)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encode(x)
        code = mean
        if self.training:
            code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decode(code), mean, log_variance

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the code, (B, latent) each."""
        for layer in self.encoder:
            x = F.relu(layer(x))
        x = F.relu(self.to_hidden(x.flatten(1)))
        return self.mean(x), self.log_variance(x)

    def decode(self, code: Tensor) -> Tensor:
        """Logits of the pixels, (B, image_channels, image_size, image_size)."""
        x = F.relu(self.to_image(F.relu(self.from_code(code))))
        x = x.unflatten(1, (-1, self.side, self.side))
        for layer in self.decoder[:-1]:
            x = F.relu(layer(x))
        logits: Tensor = self.decoder[-1](x)
        return logits


def vae_mnist() -> VAE:
    """For 28×28 grey images."""
    return VAE(28, 1, (32, 64), 256, 20)


def vae_celeba() -> VAE:
    """For 64×64 colour images."""
    return VAE(64, 3, (32, 64, 128, 256), 512, 128)
