"""Which channels narrower networks keep, by their weights or by images; and how norms follow."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_start import DIGITS, SIZE, double, inputs_of, manifold_of
from timm.layers import LayerNorm2d
from tiny_fits import recipe_for
from torch import Tensor, nn

from neumeta_cli.checkpoint import Checkpoint, load_checkpoint, resolve
from neumeta_cli.distill import distill_checkpoint, open_fit
from neumeta_cli.distill.inputs import channel_energies
from neumeta_cli.manifold import Normed, load_manifold, save_manifold
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


@given(
    seed=st.integers(0, 10**6), centred=st.booleans(), biased=st.booleans(), kept=st.integers(2, 7)
)
@settings(max_examples=40, deadline=None)
def test_norms_with_fewer_channels_come_closer_to_what_they_gave(
    seed: int, centred: bool, biased: bool, kept: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(50, 8, generator=generator) * torch.rand(8, generator=generator).mul(5)
    rows = rows + torch.randn(8, generator=generator)
    normed, places = Normed(rows, 1e-6, centred), torch.randperm(8, generator=generator)[:kept]
    places, weight = places.sort().values, torch.rand(8, generator=generator)
    by = normed.weight_change(weight, biased, places)[places]
    more = normed.bias_change(weight, places)[places] if biased else torch.zeros(())
    wanted = normed.normalised(rows)[:, places] * weight[places]
    before = normed.normalised(rows[:, places]) * weight[places]
    after = normed.normalised(rows[:, places]) * (weight[places] + by) + more
    lost = [(x - wanted).square().mean(0) for x in (after, before)]
    assert bool((lost[0] <= lost[1] + 1e-6).all())
    whole = torch.arange(8)
    assert normed.weight_change(weight, biased, whole).abs().max() < 1e-6
    assert normed.bias_change(weight, whole).abs().max() < 1e-6


class Normalising(nn.Module):
    """A stream that layer norms of both kinds, and RMS norms, read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.image = nn.Conv2d(1, 12, 2, stride=2), LayerNorm2d(12)
        self.token, self.mix = nn.LayerNorm(12), nn.Linear(12, 12)
        self.root, self.last = nn.RMSNorm(12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.image(self.stem(x)).flatten(2).transpose(1, 2)
        x = x + self.mix(self.token(x))
        return self.last(self.root(x).mean(1))


def test_norms_in_a_network_are_refitted(monkeypatch) -> None:
    torch.manual_seed(0)
    model = Normalising().eval().requires_grad_(False)
    # Channels that are left differ from those that are not.
    model.stem.weight *= torch.linspace(0.2, 3, 12).view(-1, 1, 1, 1)
    model.stem.bias += torch.linspace(1, 3, 12)
    task = load_task(DIGITS, model, SIZE)
    double(monkeypatch)
    manifold, tensors = manifold_of(model, [0.5])
    inputs = inputs_of(manifold, tensors, task, 60)
    norms = dict(inputs.norms())
    assert set(norms) == {"image", "token", "root"}
    x = task.inputs(task.train, inputs.images, None)
    sizes = manifold.frame.sizes(0.5)
    kept = manifold.inr.chosen(sizes)["image.weight", 0]
    wanted = model.double().image(model.stem(x))[:, kept]
    apart = []
    for _ in range(2):
        small = manifold.sample(0.5, samples=0)
        apart.append(float((small.image(small.stem(x)) - wanted).square().mean()))
        manifold.inr.refit_norms(norms.items())
    assert apart[1] < 0.5 * apart[0]
    full = manifold.sample(1.0, samples=0)
    assert torch.equal(full(x), model(x))
