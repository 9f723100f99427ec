"""A task of your own: data that no format knows, a loss, a metric; here the angle of a bar.

The recipe beside this file names ``own_task:Angles`` and ``own_task:network``. In this folder,

    neumeta train --recipe own_task.yaml -o bars.safetensors
    neumeta fit --recipe own_task.yaml --checkpoint bars.safetensors
    neumeta export --width 0.4 --trust-code -o small.pt

or all of it from Python: ``python examples/own_task.py``.
"""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn

import neumeta_cli
from neumeta_cli import Images, Metric, Task

SIZE = 16
RECIPE = Path(__file__).with_suffix(".yaml")


class Angles(Task):
    """Networks give (cos 2θ, sin 2θ) of a bar's angle θ, which is the same upside down."""

    metrics: ClassVar = (Metric("error (°)", higher_is_better=False, share=False),)

    @classmethod
    def load(cls, data, split, input_size, reporter=None) -> Images:
        """Bars drawn at random: nothing is read from disk."""
        count, seed = (2000, 0) if split == "train" else (500, 1)
        angles = torch.rand(count, generator=torch.Generator().manual_seed(seed)) * math.pi
        return Images(angles, (), bars(angles), image_size=(SIZE, SIZE))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, torch.stack([(2 * targets).cos(), (2 * targets).sin()], 1))

    def divergence(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return F.mse_loss(outputs, teacher)

    def meters(self) -> Mapping[str, torchmetrics.Metric]:
        return {"error (°)": torchmetrics.MeanMetric()}

    def predictions(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor]:
        found = torch.atan2(outputs[:, 1], outputs[:, 0]) / 2
        apart = (found - targets).remainder(math.pi)
        return (torch.minimum(apart, math.pi - apart).rad2deg(),)


def bars(angles: Tensor) -> Tensor:
    """(n,) angles to (n, 1, SIZE, SIZE) uint8 pictures of bars through the middle."""
    place = torch.linspace(-1, 1, SIZE)
    y, x = torch.meshgrid(place, place, indexing="ij")
    across = x * angles.sin()[:, None, None] - y * angles.cos()[:, None, None]
    return (255 * (-(across / 0.25).square()).exp()).round().to(torch.uint8)[:, None]


def network() -> nn.Module:
    """A small convolutional network for (B, 1, SIZE, SIZE)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (SIZE // 4) ** 2, 64),
        nn.ReLU(),
        nn.Linear(64, 2),
    )


def main() -> None:
    """Train the network, fit a manifold to it, and write networks of half its width."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "bars.pt")
        recipe = neumeta_cli.load_recipe(str(RECIPE), [f"model.checkpoint={checkpoint}"])
        model = neumeta_cli.recipe_arch(recipe).build("cpu")
        task = neumeta_cli.load_task(recipe.data, model, (1, SIZE, SIZE), kind=Angles)
        neumeta_cli.train_network(model, task, recipe.train)
        torch.save(model.state_dict(), checkpoint)
        run = neumeta_cli.run_recipe(recipe, Path(folder, "run"))
        for row in run.rows:
            print(f"{row.method:12} width {row.width:<5g} {row.metrics['error (°)']:6.2f}°")
        path = run.folder / "manifold.safetensors"
        manifold = neumeta_cli.load(path, trust_code=True)  # it names code of yours
        print(f"at width 0.4: {task.evaluate(manifold.sample(0.4)):.2f}°")


if __name__ == "__main__":
    from own_task import main  # the module that the recipe names, not a second copy of it

    main()
