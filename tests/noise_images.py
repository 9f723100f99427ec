"""Images of noise in memory, for fits of which only time, memory or the right bits are asked."""

import torch

from neumeta_cli.checkpoint import InputSize
from neumeta_cli.data.images import Images
from neumeta_cli.data.settings import DataSection
from neumeta_cli.tasks import Classification


def noise_task(data: DataSection, size: InputSize, classes: int, count: int) -> Classification:
    """Classification of random images with random labels, the same for testing."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (count,), generator=generator)
    pixels = torch.randint(0, 256, (count, *size), dtype=torch.uint8, generator=generator)
    names = tuple(map(str, range(classes)))
    images = Images(labels, names, pixels, image_size=size[1:])
    return Classification(data, images, images)
