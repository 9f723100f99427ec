"""Fitting what depends on a width's activations to unlabelled images, as a network is exported."""

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from neumeta_cli.checkpoint import InputSize
from neumeta_cli.data import Images
from neumeta_cli.data.folders import images_under
from neumeta_cli.data.images import normalise
from neumeta_cli.data.preprocessing import preprocessing_of
from neumeta_cli.data.settings import MASK_FORMATS, DataSection
from neumeta_cli.errors import NeumetaError
from neumeta_cli.kernels import SafeConvolutions
from neumeta_cli.manifold import Manifold
from neumeta_cli.reporting import Reporter, Silent, counted
from neumeta_cli.resize import calibrate

MOST_IMAGES = 512
BATCH = 256
STATISTICS, BIASES = "norm statistics", "biases"
EPOCHS, STEP, RATE = 15, 64, 1e-2  # of the fit of biases: passes, images a step, Adam's rate
TEMPERATURE = 2.0


def read_images(folder: Path, data: DataSection, size: InputSize) -> Tensor:
    """Images from anywhere under a folder, prepared as for the task.

    Args:
        folder: of any structure; of more than 512 images, evenly many from its sorted list.
        data: how to resize and normalise them.
        size: (C, H, W) that the network takes; with one channel they become grey.

    Returns:
        (n, C, H, W) float32.

    Raises:
        NeumetaError: no such folder, fewer than two images in it, or one that cannot be read.

    """
    if not folder.is_dir():
        raise NeumetaError(f"--calibrate {folder}: no such folder")
    found = sorted(images_under(folder))
    if len(found) < 2:
        raise NeumetaError(
            f"--calibrate {folder}: it holds {counted(len(found), 'image')}; give more"
        )
    step = max(1, -(-len(found) // MOST_IMAGES))
    files = tuple(found[::step])
    index = torch.arange(len(files))
    square = data.image_size or (size[1], size[2])
    wanted = (square, square) if isinstance(square, int) else square
    whole = data.format in MASK_FORMATS
    prepared = preprocessing_of(data, wanted)
    images = Images(
        index, (), None, files, wanted, channels=size[0], preprocessing=prepared, whole=whole
    )
    return normalise(images.fetch(index), data)


def recalibrate(
    manifold: Manifold,
    network: nn.Module,
    images: Tensor,
    samples: int | None = None,
    reporter: Reporter | None = None,
) -> str:
    """Fit the statistics of norms in scope to images, or biases where scope has no norms.

    Args:
        manifold: that the network was sampled from.
        network: changed in place.
        images: (n, C, H, W).
        samples: K of the network of full width that biases follow.
        reporter: is told of the progress.

    Returns:
        What was fitted, in words.

    Raises:
        NeumetaError: there are neither norms nor biases in scope.

    """
    if manifold.norms:
        calibrate(network, manifold.norms, images)
        return STATISTICS
    names = [spec.name for spec in manifold.specs if spec.name.endswith(".bias")]
    if not names:
        raise NeumetaError("--calibrate: nothing in scope has norm statistics or biases; leave it")
    full = manifold.sample(1.0, samples=samples, reporter=reporter).cpu()
    if isinstance(full(images[:1]), tuple):
        raise NeumetaError("--calibrate: biases are fitted to scores, and this network gives none")
    _follow(network, full, names, images, reporter or Silent())
    return BIASES


def _follow(
    network: nn.Module, full: nn.Module, names: list[str], images: Tensor, reporter: Reporter
) -> None:
    """Move biases so that outputs come closer to those of the network of full width.

    Adam on the divergence of their classes. One image in five only measures; the biases that were
    best on these are taken, which may be those from before.
    """
    with torch.no_grad():
        wanted = torch.cat([_output(full, batch) for batch in images.split(BATCH)])
    measuring = torch.arange(len(images)) % 5 == 4
    biases = [network.get_parameter(name).requires_grad_() for name in names]
    optimizer = torch.optim.Adam(biases, lr=RATE)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    generator = torch.Generator().manual_seed(0)
    training = torch.nonzero(~measuring).flatten()
    best, kept = _distance(network, images[measuring], wanted[measuring]), _copies(biases)
    reporter.start("fit biases", EPOCHS)
    for _ in range(EPOCHS):
        order = training[torch.randperm(len(training), generator=generator)]
        for index in order.split(STEP):
            optimizer.zero_grad()
            with SafeConvolutions():
                _divergence(_output(network, images[index]), wanted[index]).backward()
            optimizer.step()
        rate.step()
        reporter.advance()
        distance = _distance(network, images[measuring], wanted[measuring])
        if distance < best:
            best, kept = distance, _copies(biases)
    reporter.finish()
    for bias, value in zip(biases, kept, strict=True):
        bias.requires_grad_(False).copy_(value)


def _copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _distance(network: nn.Module, images: Tensor, wanted: Tensor) -> float:
    made = torch.cat([_output(network, batch) for batch in images.split(BATCH)])
    return float(_divergence(made, wanted))


def _output(network: nn.Module, images: Tensor) -> Tensor:
    """The scores (b, classes, …) of a network, the first tensor that it gives."""
    return next(t for t in tree_leaves(network(images)) if isinstance(t, Tensor))


def _divergence(scores: Tensor, wanted: Tensor) -> Tensor:
    """KL divergence of the classes from those that are wanted, averaged over images and places."""
    return F.kl_div(_rows(scores), _rows(wanted), reduction="batchmean", log_target=True)


def _rows(scores: Tensor) -> Tensor:
    softened = (scores / TEMPERATURE).log_softmax(1)
    return softened.transpose(0, 1).flatten(1).T
