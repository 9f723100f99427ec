"""A network of your own, in memory: trace, permute, prune by width, and export.

    python examples/own_model.py

The network has a residual sum and a depthwise convolution, to whose channels several weights are
tied; the trace finds them. Nothing is trained here: see own_task.py for a fit.
"""

import copy
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import neumeta_cli
from neumeta_cli import Arch, NoiseSection, inr_settings

INPUT_SIZE = (3, 16, 16)


class Block(nn.Module):
    """A sum of its input and of a depthwise and a 1×1 convolution of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(self.depthwise(x).relu())


def network() -> nn.Module:
    """(B, 3, 16, 16) to (B, 10)."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        Block(24),
        Block(24),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


def main() -> None:
    torch.manual_seed(0)
    model = network().eval()
    trace = neumeta_cli.trace_model(model, INPUT_SIZE)
    for clique in trace.cliques:
        print(f"{clique.name}: {clique.channels} channels, {len(clique.members)} members")

    permuted = copy.deepcopy(model)
    neumeta_cli.permute_model(permuted, trace)
    error = neumeta_cli.invariance_error(model, permuted, INPUT_SIZE)
    print(f"permuted, relative difference {error:.0e}")

    inr, noise = inr_settings("selected"), NoiseSection(channels=0.0, sizes=0.0, samples=1)
    arch = Arch("own_model:network")  # how a file's reader builds it again
    how = arch, INPUT_SIZE, "all", False, inr, noise
    manifold, _ = neumeta_cli.build_manifold(permuted, *how)
    x = torch.randn(4, *INPUT_SIZE)
    for width in (1.0, 0.5, 0.3):
        small = manifold.sample(width)
        parameters = sum(p.numel() for p in small.parameters())
        print(f"width {width}: {parameters:,} parameters, scores {tuple(small(x).shape)}")

    with tempfile.TemporaryDirectory() as folder:
        exported = neumeta_cli.export_network(manifold, Path(folder, "half.pt"), width=0.5)
        again = neumeta_cli.load(exported.path, trust_code=True)  # it names code of yours
        print(f"loaded again, the same: {torch.equal(again(x), exported.model(x))}")


if __name__ == "__main__":
    main()
