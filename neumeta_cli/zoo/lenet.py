"""LeNet, in the size that the paper uses for MNIST and one for scikit-learn's 8×8 digits."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class LeNet(nn.Module):
    """Two convolutions with pooling, then three linear layers (LeCun et al., 1998, with ReLU).

    Args:
        image_size: height and width of the input, a multiple of 4.
        channels: outputs of conv1, conv2, fc1, fc2.
        kernel_size: of both convolutions, padded so that only pooling shrinks the image.
        num_classes: outputs of fc3.

    Input (B, 1, image_size, image_size), output (B, num_classes).

    """

    def __init__(
        self,
        image_size: int = 28,
        channels: Sequence[int] = (6, 16, 120, 84),
        kernel_size: int = 5,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        conv1, conv2, fc1, fc2 = channels
        self.conv1 = nn.Conv2d(1, conv1, kernel_size, padding=kernel_size // 2)
        self.conv2 = nn.Conv2d(conv1, conv2, kernel_size, padding=kernel_size // 2)
        self.fc1 = nn.Linear(conv2 * (image_size // 4) ** 2, fc1)
        self.fc2 = nn.Linear(fc1, fc2)
        self.fc3 = nn.Linear(fc2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.flatten(1)
        x = F.relu(self.fc2(F.relu(self.fc1(x))))
        logits: Tensor = self.fc3(x)
        return logits


def lenet(num_classes: int = 10) -> LeNet:
    """LeNet for 28×28 images (MNIST)."""
    return LeNet(28, (6, 16, 120, 84), 5, num_classes)


def lenet_digits(num_classes: int = 10) -> LeNet:
    """LeNet for the 8×8 digits of scikit-learn."""
    return LeNet(8, (16, 32, 64, 32), 3, num_classes)
