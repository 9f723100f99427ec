"""Images that travel with a manifold, so that norms can be calibrated at any width."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neumeta_cli.resize import calibration_batches

JPEG_CHANNELS = {1: "GRAY", 3: "RGB"}  # the names of torchvision's modes
MOST_BYTES = 1 << 30  # of the pixels of a JPEG, a small file of which may claim to be huge


class CalibrationSet(nn.Module):
    """Network inputs as bytes, with one scale and offset per channel.

    A file has them as one JPEG, tile beside tile (a picture of each would spend more on headers
    than on small images), or as they are; in memory they are what the file will give back.
    """

    pixels: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.jpeg: Tensor | None = None
        self.register_buffer("pixels", torch.empty(0, 1, 1, 1, dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(1, 1, 1))
        self.register_buffer("offset", torch.zeros(1, 1, 1))

    def __len__(self) -> int:
        return len(self.pixels)

    def keep(self, inputs: Tensor, quality: int | None = None) -> None:
        """Store inputs (n, C, H, W).

        Normalised 8-bit images that span 0 to 255 become those bytes again, and lose nothing
        unless they are kept as a JPEG of some quality (1 to 100; one or three channels).
        """
        low = inputs.amin((0, 2, 3), keepdim=True)[0]
        high = inputs.amax((0, 2, 3), keepdim=True)[0]
        self.offset = low
        self.scale = ((high - low) / 255).clamp(min=1e-12)
        self.pixels = torch.empty(inputs.shape, dtype=torch.uint8, device=inputs.device)
        for pixels, image in zip(self.pixels, inputs, strict=True):  # one by one takes less memory
            pixels.copy_(((image - self.offset) / self.scale).round())
        if quality is not None and self.pixels.shape[1] in JPEG_CHANNELS:
            from torchvision.io import encode_jpeg

            self.jpeg = encode_jpeg(_mosaic(self.pixels.cpu()), quality)
            self.pixels = _from_jpeg(self.jpeg, self.pixels.shape)

    def batches(self) -> Iterator[Tensor]:
        """The inputs again, float32 (n, C, H, W), in batches to calibrate with."""
        for part in calibration_batches(len(self), self.pixels[:1].numel()):
            yield self.pixels[part].float() * self.scale + self.offset

    def packed(self) -> dict[str, Tensor]:
        """As the file holds it."""
        state = {"scale": self.scale, "offset": self.offset}
        if self.jpeg is None:
            return state | {"pixels": self.pixels}
        return state | {"jpeg": self.jpeg, "shape": torch.tensor(self.pixels.shape)}

    def unpack(self, stored: Mapping[str, Tensor]) -> None:
        """Take over what a file holds.

        Raises:
            KeyError, ValueError, RuntimeError: it is not what ``packed`` gives.

        """
        self.scale, self.offset, self.jpeg = stored["scale"], stored["offset"], stored.get("jpeg")
        if self.jpeg is None:
            self.pixels = stored["pixels"]
        else:
            self.pixels = _from_jpeg(self.jpeg, stored["shape"].tolist())


def _columns(count: int) -> int:
    return math.ceil(math.sqrt(count))


def _mosaic(pixels: Tensor) -> Tensor:
    """(n, C, H, W) to one picture (C, rows·H, columns·W)."""
    count, channels, height, width = pixels.shape
    columns = _columns(count)
    rows = -(-count // columns)
    tiles = F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, rows * columns - count))
    grid = tiles.view(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    return grid.reshape(channels, rows * height, columns * width)


def _from_jpeg(jpeg: Tensor, shape: Sequence[int]) -> Tensor:
    from PIL import Image
    from torchvision.io import ImageReadMode, decode_jpeg

    count, channels, height, width = shape
    columns = _columns(count)
    with Image.open(io.BytesIO(jpeg.cpu().numpy().tobytes())) as header:
        size = header.size
    wanted = (columns * width, -(-count // columns) * height)
    if size != wanted or size[0] * size[1] * channels > MOST_BYTES:
        raise ValueError(f"its calibration images are {size} pixels, not {wanted}")
    picture: Tensor = decode_jpeg(jpeg.cpu(), mode=ImageReadMode[JPEG_CHANNELS[channels]])
    grid = picture.view(channels, -1, height, columns, width).permute(1, 3, 0, 2, 4)
    return grid.reshape(-1, channels, height, width)[:count].contiguous()
