"""What layers read: along which dimension, and at which pixels of an image it is looked at."""

from torch import Tensor, nn

MOST_PIXELS = 64  # of an image are looked at; neighbours have much the same features
READING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def reads_channels(module: nn.Module) -> bool:
    """Whether it is a layer whose input's channels are its weight's."""
    return isinstance(module, READING) and getattr(module, "groups", 1) == 1


def feature_dim(module: nn.Module) -> int:
    """Along which dimension of its input a layer's channels run."""
    return -1 if isinstance(module, nn.Linear) else 1


def spread(features: Tensor, dim: int) -> Tensor:
    """Pixels (or tokens) spread over each image, their channels last; a view."""
    rows = features.movedim(dim, -1)
    most = round(MOST_PIXELS ** (1 / max(1, rows.dim() - 2)))
    return rows[(slice(None), *(slice(None, None, -(-n // most)) for n in rows.shape[1:-1]))]
