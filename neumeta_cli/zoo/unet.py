"""U-Net (Ronneberger et al., 2015) with torchvision's ResNet-18 as its encoder."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Up(nn.Module):
    """Enlarges to the size of an earlier map, joins the two, and convolves twice."""

    def __init__(self, below: int, beside: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(below + beside, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, below: Tensor, beside: Tensor) -> Tensor:
        x = torch.cat([F.interpolate(below, size=beside.shape[-2:]), beside], dim=1)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)))


class UNet(nn.Module):
    """Input (B, 3, H, W), any H and W; output (B, num_classes, H, W) scores.

    ``encoder`` has the names of torchvision's ResNet-18, so that its weights can begin there.
    """

    def __init__(self, num_classes: int, widths: Sequence[int] = (256, 128, 64, 64)) -> None:
        from torchvision.models import resnet18

        super().__init__()
        self.encoder = resnet18(weights=None)
        del self.encoder.fc, self.encoder.avgpool
        skips, below = (256, 128, 64, 64), 512
        self.up = nn.ModuleList()
        for beside, width in zip(skips, widths, strict=True):
            self.up.append(Up(below, beside, width))
            below = width
        self.head = nn.Conv2d(below, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        e = self.encoder
        first = F.relu(e.bn1(e.conv1(x)))
        second = e.layer1(e.maxpool(first))
        third = e.layer2(second)
        fourth = e.layer3(third)
        x = e.layer4(fourth)
        for up, beside in zip(self.up, (fourth, third, second, first), strict=True):
            x = up(x, beside)
        return F.interpolate(self.head(x), size=size, mode="bilinear", align_corners=False)


def unet_resnet18(num_classes: int = 21) -> UNet:
    return UNet(num_classes)
