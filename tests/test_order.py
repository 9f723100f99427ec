"""Which channels narrower networks keep: by their weights, or by what they give on images."""

from pathlib import Path

import pytest
import torch
from test_start import DIGITS, SIZE, double, inputs_of, manifold_of
from tiny_fits import recipe_for
from torch import Tensor, nn

from neumeta_cli.checkpoint import Checkpoint, load_checkpoint, resolve
from neumeta_cli.distill import distill_checkpoint, open_fit
from neumeta_cli.distill.inputs import channel_energies
from neumeta_cli.manifold import load_manifold, save_manifold
from neumeta_cli.recipe import Recipe
from neumeta_cli.tasks import load_task


class Stream(nn.Module):
    """Hidden channels that a block and the last layer read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block = nn.Conv2d(1, 8, 3, stride=2), nn.Conv2d(8, 8, 1)
        self.last = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.last((x + self.block(x)).mean((2, 3)))


def test_what_a_channel_gives_is_what_its_readers_make_of_it(monkeypatch) -> None:
    torch.manual_seed(0)
    model = Stream().eval()
    task = load_task(DIGITS, model, SIZE)
    double(monkeypatch)
    manifold, tensors = manifold_of(model, [0.5])
    inputs = inputs_of(manifold, tensors, task, 60)
    (energy,) = channel_energies(inputs, tensors).values()
    own = model.double()
    x = own.first(task.inputs(task.train, inputs.images, None)).relu()
    mean = (x + own.block(x)).mean((2, 3))
    by_hand = torch.stack(
        [
            (x[:, i, None] * own.block.weight[:, i]).square().sum(1).mean()
            + (mean[:, i, None] * own.last.weight[:, i]).square().sum(1).mean()
            for i in range(8)
        ]
    )
    torch.testing.assert_close(energy, by_hand)


def _recipe(order: str, images: int = 40) -> Recipe:
    return recipe_for(
        Path(),
        scope="all",
        model={"arch": "lenet_digits", "input_size": list(SIZE)},
        data={"format": "digits", "root": None, "flip": False, "crop_padding": 0},
        inr={"kind": "selected", "order": order, "store": "float32"},
        norm={"fold": False},
        noise={"channels": 0.0, "sizes": 0.0, "samples": 1},
        loss={"recon": 0.0, "reg": 0.0, "distill": 1.0},
        fit={"epochs": 1, "update": 1.0, "start_images": images, "limit": 80},
    )


@pytest.fixture
def loud(tmp_path: Path) -> Checkpoint:
    """A LeNet whose channels of smallest norm give most: they are never silent."""
    torch.manual_seed(0)
    arch = resolve("lenet_digits")
    model = arch.build("cpu")
    with torch.no_grad():
        for writer in [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)][:-1]:
            writer.weight[::2] *= 0.2
            writer.bias[::2] = 4.0  # one number among the weights, but read with every image
    torch.save(model.state_dict(), path := tmp_path / "net.pth")
    return load_checkpoint(path, arch)


def _kept(fitter) -> list[torch.Tensor]:
    inr = fitter.manifold.inr
    return [inr.get_buffer(f"rank_{n}").clone() for n, _ in enumerate(inr.frame.cliques)]


def test_a_recipe_chooses_by_what_channels_give(loud: Checkpoint, tmp_path: Path) -> None:
    task = load_task(DIGITS, loud.model, SIZE, limit=80)
    by_norm = _kept(open_fit(loud, task, _recipe("norm"))[0])
    by_energy = _kept(open_fit(loud, task, _recipe("energy"))[0])
    assert any(not torch.equal(a, b) for a, b in zip(by_norm, by_energy, strict=True))
    blind = _kept(open_fit(loud, task, _recipe("energy", images=0))[0])
    assert all(torch.equal(a, b) for a, b in zip(by_norm, blind, strict=True))
    for ranks in by_energy:  # channels with the bias come first
        assert ranks[::2].float().mean() < ranks[1::2].float().mean()
    manifold, _, _ = distill_checkpoint(loud, task, _recipe("energy"))
    again = load_manifold(save_manifold(tmp_path / "m.safetensors", manifold))
    x = torch.randn(3, *SIZE)
    for width in (1.0, 0.6, 0.5):
        one, other = (m.sample(width)(x) for m in (manifold, again))
        assert torch.equal(one, other)
    torch.testing.assert_close(manifold.sample(1.0)(x), loud.model(x))
