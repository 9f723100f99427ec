"""Images that travel with a manifold, so that norms can be calibrated at any width."""

import torch
from torch import Tensor, nn


class CalibrationSet(nn.Module):
    """Network inputs as bytes, with one scale and offset per channel."""

    pixels: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixels", torch.empty(0, 1, 1, 1, dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(1, 1, 1))
        self.register_buffer("offset", torch.zeros(1, 1, 1))

    def __len__(self) -> int:
        return len(self.pixels)

    def keep(self, inputs: Tensor) -> None:
        """Store inputs (n, C, H, W); normalised 8-bit images that span 0 to 255 lose nothing."""
        low = inputs.amin((0, 2, 3), keepdim=True)[0]
        high = inputs.amax((0, 2, 3), keepdim=True)[0]
        self.offset = low
        self.scale = ((high - low) / 255).clamp(min=1e-12)
        self.pixels = ((inputs - low) / self.scale).round().to(torch.uint8)

    def inputs(self) -> Tensor:
        """The inputs again, float32 (n, C, H, W)."""
        return self.pixels.float() * self.scale + self.offset
