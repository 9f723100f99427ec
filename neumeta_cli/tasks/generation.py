"""Generation by variational autoencoders: images in, images out; ELBO and squared error."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neumeta_cli.errors import NeumetaError
from neumeta_cli.tasks.base import Metric, Outputs, Task

if TYPE_CHECKING:
    import torchmetrics
    from matplotlib.figure import Figure

GRID = 8  # images a row, in pictures


@dataclass(frozen=True)
class Generation(Task):
    """The negative evidence lower bound in nats an image (Kingma and Welling, 2014).

    Networks give (logits of pixels, mean, log-variance of the code), draw the code where they
    train, take its mean where they do not, and have ``decode(code)``. Targets are images, 0 to 1;
    pixels are Bernoulli. NLL is the negative ELBO; MSE the squared error, summed over pixels; both
    with one drawn code an image, and a mean over images.
    """

    metrics = (
        Metric("NLL", higher_is_better=False, share=False),
        Metric("MSE", higher_is_better=False, share=False),
    )
    samples = True
    supervised = False

    def targets(self, x: Tensor, labels: Tensor) -> Tensor:
        """Images as the network should give them back, 0 to 1."""
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in self.data.normalisation)
        return x * std + mean

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """The negative ELBO, averaged over the batch."""
        return _negative_elbo(outputs, targets).mean()

    def divergence(self, outputs: Outputs, teacher: Outputs, temperature: float) -> Tensor:
        """KL divergence of pixels and codes from the teacher's; there is no temperature to it."""
        logits, mean, log_variance = outputs
        wanted, mean_0, log_variance_0 = teacher
        share = wanted.sigmoid()
        pixels = F.binary_cross_entropy_with_logits(logits, share, reduction="none")
        pixels = pixels - F.binary_cross_entropy_with_logits(wanted, share, reduction="none")
        apart = (log_variance_0.exp() + (mean_0 - mean).square()) / log_variance.exp()
        codes: Tensor = 0.5 * (apart - 1 + log_variance - log_variance_0)
        return pixels.flatten(1).sum(1).mean() + codes.sum(1).mean()

    def meters(self) -> "Mapping[str, torchmetrics.Metric]":
        from neumeta_cli.tasks.meters import MeanOf

        return {"NLL": MeanOf(0), "MSE": MeanOf(1)}

    def predictions(self, outputs: Outputs, targets: Tensor) -> tuple[Tensor]:
        apart = outputs[0].float().sigmoid() - targets
        error = apart.square().flatten(1).sum(1)
        return (torch.stack([_negative_elbo(outputs, targets), error]),)

    def check(self, model: nn.Module, outputs: Outputs) -> None:
        right = isinstance(outputs, tuple) and len(outputs) == 3
        if not right or not callable(getattr(model, "decode", None)):
            raise NeumetaError(
                "the network is no variational autoencoder: it does not give (logits of pixels, "
                "mean, log-variance), or has no decode(code)"
            )
        if outputs[0].shape[-2:] != self.test.image_size:
            raise NeumetaError("the network's images are not of the size of the data's")

    @torch.no_grad()
    def pictures(self, model: nn.Module) -> "Mapping[str, Figure]":
        """Images given back, drawn from the prior, and between two images."""
        network: Any = model
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        index = torch.linspace(0, len(self.test) - 1, min(GRID, len(self.test))).long()
        x, targets = self.batch(self.test, index, None)
        logits, codes, _ = network(x.to(device))
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(GRID**2, codes.shape[1], generator=generator).to(device)
        shares = torch.linspace(0, 1, GRID, device=device)[:, None]
        between = torch.cat([torch.lerp(a, b, shares) for a, b in itertools.pairwise(codes)])
        return {
            "reconstructions": _grid(torch.cat([targets, logits.sigmoid().cpu()]), len(index)),
            "samples": _grid(network.decode(drawn).sigmoid().cpu(), GRID),
            "interpolations": _grid(network.decode(between).sigmoid().cpu(), GRID),
        }


def _negative_elbo(outputs: Outputs, targets: Tensor) -> Tensor:
    """(b,), in nats: what pixels cost, and the KL divergence of the code from the prior."""
    logits, mean, log_variance = (o.float() for o in outputs)
    pixels = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    codes: Tensor = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return pixels.flatten(1).sum(1) + codes.sum(1)


def _grid(images: Tensor, columns: int) -> "Figure":
    """All of them in one picture, which is drawn far sooner than a picture of each."""
    from matplotlib.figure import Figure
    from torchvision.utils import make_grid

    rows = -(-len(images) // columns)
    figure = Figure(figsize=(0.7 * columns, 0.7 * rows))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(make_grid(images, columns, pad_value=1).permute(1, 2, 0).clamp(0, 1).numpy())
    axes.set_axis_off()
    return figure
