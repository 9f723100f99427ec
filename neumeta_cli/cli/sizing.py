"""At which size a network takes a user's images, where its file does not say."""

from dataclasses import replace

import torch

from neumeta_cli.checkpoint import Checkpoint
from neumeta_cli.cli.console import note
from neumeta_cli.data import Images
from neumeta_cli.data.decoding import image_size, read_image
from neumeta_cli.data.preprocessing import preprocessing_of, resolved
from neumeta_cli.data.settings import DataSection
from neumeta_cli.errors import NeumetaError
from neumeta_cli.pipeline import preprocessing_for
from neumeta_cli.resize import Frame, open_frame

TRIED = 64  # images on which two sizes are compared
CLEAR = 0.1  # of these, so many more must be right at the images' own size


AS_THEY_ARE = {"crop_mode": "cover"}  # of the section data: images of the right size stay

Sized = tuple[Checkpoint, Frame, dict[str, str]]


def at_size_of(images: Images, checkpoint: Checkpoint, section: DataSection) -> Sized:
    """The network at the size of the images, or as it is.

    A user's own network, whose input's size nobody knows, takes that of the first image. One that a
    library records a size of takes theirs if all images are smaller and it knows more of them so
    than enlarged, as a network that was trained on small images does. Files that say their size
    keep it; so does a network that does not run at the images'.

    Args:
        images: for training, found in their folder.
        checkpoint: the network.
        section: how the images are read.

    Returns:
        It, its frame, and fields of the section that go with the size.

    """
    own = ":" in checkpoint.arch.name
    if images.files and "input_size" not in checkpoint.weights.metadata:
        found = _own_size(images, checkpoint) if own else _smaller(images, checkpoint, section)
        if found is not None:
            return found
    return checkpoint, open_frame(checkpoint.model, checkpoint.input_size), {}


def _own_size(images: Images, checkpoint: Checkpoint) -> Sized | None:
    _, height, width = read_image(images.files[0], grey=False).shape
    size = (checkpoint.input_size[0], height, width)
    try:
        frame = open_frame(checkpoint.model, size)
    except NeumetaError:
        note(f"the network does not run at the images' size, {height}×{width}")
        return None
    note(f"input size {size[0]}×{height}×{width}, that of the first image")
    return replace(checkpoint, input_size=size), frame, {}


def _smaller(images: Images, checkpoint: Checkpoint, section: DataSection) -> Sized | None:
    channels, height, width = checkpoint.input_size
    index = torch.linspace(0, len(images) - 1, min(TRIED, len(images))).long().unique()
    sides = {image_size(images.files[i]) for i in index.tolist()}
    side = sides.pop()
    if sides or side is None or side[0] >= height or side[1] >= width or not images.labelled:
        return None
    small = replace(checkpoint, input_size=(channels, *side))
    try:
        frame = open_frame(small.model, small.input_size)
        known = _right(small, images, index, section.model_copy(update=AS_THEY_ARE))
        enlarged = _right(checkpoint, images, index, section)
    except (NeumetaError, RuntimeError):  # it takes one size alone, or has no class for a label
        return None
    if known - enlarged < CLEAR * len(index):
        return None
    note(
        f"input size {channels}×{side[0]}×{side[1]}, that of the images: the network knows {known} "
        f"of {len(index)} as they are, and {enlarged} enlarged to its usual {height}×{width}"
    )
    return small, frame, AS_THEY_ARE


@torch.no_grad()
def _right(
    checkpoint: Checkpoint, images: Images, index: torch.Tensor, section: DataSection
) -> int:
    """How many of some images the network knows at its size."""
    size = checkpoint.input_size[1:]
    data = resolved(section, preprocessing_for(checkpoint))
    sized = replace(images, image_size=size, preprocessing=preprocessing_of(data, size))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in data.normalisation)
    x = (sized.fetch(index) / 255 - mean) / std
    labels = images.fetch_labels(index)
    outputs = torch.cat([checkpoint.model(part) for part in x.split(8)])
    if outputs.dim() != 2 or outputs.shape[1] <= int(labels.max()):
        raise NeumetaError("the outputs are no scores of these classes")
    return int((outputs.argmax(1) == labels).sum())
