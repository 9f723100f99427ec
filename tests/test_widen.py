"""Networks wider than their checkpoint compute what it computes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_checks import randomise
from torch import Tensor, nn

from neumeta_cli.checkpoint import resolve
from neumeta_cli.manifold import Manifold, build_manifold, inr_settings
from neumeta_cli.manifold.settings import NoiseSection

HERE = "test_widen"
CONVOLUTIONS = [
    ("lenet_digits", (1, 8, 8)),
    ("cifar_resnet20", (3, 32, 32)),
    ("torchvision/shufflenet_v2_x0_5", (3, 32, 32)),
    ("timm/mobilenetv3_small_050", (3, 32, 32)),
    (f"{HERE}:Mixed", (3, 4, 4)),
]


class Mixed(nn.Module):
    """Maps that are joined, flattened with channels last, and read by groups."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, width, 3), nn.Conv2d(3, 2 * width, 3)
        self.norm = nn.BatchNorm2d(3 * width)
        self.fc = nn.Linear(12 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        joined = self.norm(torch.cat([self.one(x), self.two(x)], 1)).relu()
        return self.fc(joined.permute(0, 2, 3, 1).flatten(1))


def unfitted(model: nn.Module, name: str, size: tuple[int, int, int], fold: bool) -> Manifold:
    randomise(model)
    made = model, resolve(name), size, "all", fold
    return build_manifold(*made, inr_settings(), NoiseSection())[0].double()


def farthest(manifold: Manifold, sizes: dict[str, int]) -> float:
    x = torch.randn(2, *manifold.input_size, dtype=torch.float64)
    whole, wide = manifold.sample(1.0, samples=0), manifold.sample(sizes=sizes, samples=0)
    return float((whole(x) - wide(x)).abs().max() / whole(x).abs().max())


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize(("name", "size"), CONVOLUTIONS)
def test_wider_networks_compute_the_same(name: str, size: tuple, fold: bool) -> None:
    manifold = unfitted(resolve(name).build("cpu").eval(), name, size, fold)
    for width in (1.2, 2.3):
        sizes = manifold.frame.sizes(width)
        assert sum(sizes.values()) > sum(manifold.frame.full.values())
        assert farthest(manifold, sizes) < 1e-12


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_so_do_networks_with_a_width_for_each_clique(data: st.DataObject) -> None:
    name = f"{HERE}:Mixed"
    manifold = unfitted(resolve(name).build("cpu").eval(), name, (3, 4, 4), False)
    full = manifold.frame.full
    sizes = {c: data.draw(st.integers(n, 4 * n)) for c, n in full.items()}
    assert farthest(manifold, sizes) < 1e-12
