"""Fitting what depends on a width's activations to unlabelled images, as a network is exported."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import functional as TF

from neumeta_cli.checkpoint import InputSize
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import Manifold, along
from neumeta_cli.reporting import Reporter
from neumeta_cli.resize import calibrate
from neumeta_cli.sections import DataSection
from neumeta_cli.tasks import Images
from neumeta_cli.tasks.images import normalise

MOST_IMAGES = 512
BATCH = 256
STATISTICS, BIASES = "norm statistics", "biases"
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


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
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMG_EXTENSIONS)
    if len(found) < 2:
        raise NeumetaError(f"--calibrate {folder}: it holds {len(found)} images; give more")
    step = max(1, -(-len(found) // MOST_IMAGES))
    files = tuple(found[::step])
    index = torch.arange(len(files))
    square = data.image_size or (size[1], size[2])
    wanted = (square, square) if isinstance(square, int) else square
    pixels = Images(index, (), None, files, wanted).fetch(index)
    if size[0] == 1:
        pixels = TF.rgb_to_grayscale(pixels)
    return normalise(pixels, data)


def recalibrate(
    manifold: Manifold,
    network: nn.Module,
    sizes: Mapping[str, int],
    images: Tensor,
    samples: int | None = None,
    reporter: Reporter | None = None,
) -> str:
    """Fit the statistics of norms in scope to images, or biases where scope has no norms.

    Args:
        manifold: that the network was sampled from.
        network: changed in place.
        sizes: channels of its cliques in scope.
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
    targets = {t.spec.module: t for t in manifold.targets(sizes) if t.spec.name.endswith("bias")}
    layers = [n for n in targets if isinstance(network.get_submodule(n), LAYERS)]
    if not layers:
        raise NeumetaError("--calibrate: nothing in scope has norm statistics or biases; leave it")
    full = manifold.sample(1.0, samples=samples, reporter=reporter).cpu()
    means = _output_means(full, layers, images)
    wanted = {}
    for name, mean in means.items():
        target = targets[name]
        kept = target.kept[0] if target.kept[0] is None else target.kept[0].cpu()
        wanted[name] = along(mean, 0, target.c_out, kept, None)
    _shift_biases(network, wanted, images)
    return BIASES


class _Channels:
    """A running mean by channel."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0

    def add(self, values: Tensor, count: int) -> None:
        self.total = self.total + values * count
        self.count += count

    @property
    def mean(self) -> Tensor:
        assert isinstance(self.total, Tensor)
        return self.total / self.count


def _by_channel(module: nn.Module, output: Tensor) -> Tensor:
    channel = output.dim() - 1 if isinstance(module, nn.Linear) else 1
    return output.mean([d for d in range(output.dim()) if d != channel])


def _like(module: nn.Module, values: Tensor, output: Tensor) -> Tensor:
    tail = 0 if isinstance(module, nn.Linear) else output.dim() - 2
    return values.view(-1, *(1,) * tail)


@torch.no_grad()
def _output_means(model: nn.Module, layers: list[str], images: Tensor) -> dict[str, Tensor]:
    seen = {name: _Channels() for name in layers}

    def look(name: str) -> RemovableHandle:
        def hook(module: nn.Module, _: object, output: Tensor) -> None:
            seen[name].add(_by_channel(module, output), len(output))

        return model.get_submodule(name).register_forward_hook(hook)

    _run(model, [look(name) for name in layers], images)
    return {name: channels.mean for name, channels in seen.items()}


@torch.no_grad()
def _shift_biases(model: nn.Module, wanted: Mapping[str, Tensor], images: Tensor) -> None:
    """Move biases so that each layer's outputs have these means, those of layers before it moved.

    Bias correction (Nagel et al., 2019), averaged over batches as norm statistics are.
    """
    shifts = {name: _Channels() for name in wanted}

    def move(name: str) -> RemovableHandle:
        def hook(module: nn.Module, _: object, output: Tensor) -> Tensor:
            shift = wanted[name] - _by_channel(module, output)
            shifts[name].add(shift, len(output))
            return output + _like(module, shift, output)

        return model.get_submodule(name).register_forward_hook(hook)

    _run(model, [move(name) for name in wanted], images)
    for name, channels in shifts.items():
        model.get_parameter(f"{name}.bias").add_(channels.mean)


def _run(model: nn.Module, hooks: list[RemovableHandle], images: Tensor) -> None:
    for batch in images.split(BATCH):
        model(batch)
    for hook in hooks:
        hook.remove()
