"""Networks wider than their checkpoint compute what it computes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_checks import randomise
from torch import Tensor, nn

from neumeta_cli.checkpoint import resolve
from neumeta_cli.manifold import Manifold, build_manifold, inr_settings
from neumeta_cli.manifold.settings import NoiseSection
from neumeta_cli.resize import widened_places
from neumeta_cli.trace import Clique, Member, Trace

HERE = "test_widen"
CONVOLUTIONS = [
    ("lenet_digits", (1, 8, 8)),
    ("cifar_resnet20", (3, 32, 32)),
    ("torchvision/shufflenet_v2_x0_5", (3, 32, 32)),
    ("timm/mobilenetv3_small_050", (3, 32, 32)),
    (f"{HERE}:Mixed", (3, 4, 4)),
    (f"{HERE}:Outermost", (3, 2, 2)),
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


class Outermost(nn.Module):
    """Six channels in each of three sets that lie side by side: channels × sets."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 18), nn.Linear(18, 5)
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.one(x.flatten(2).mean(1)).unflatten(-1, (-1, 3))
        return self.two((parts * self.scale).tanh().flatten(-2))


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


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_copies_beside_channels_that_are_missing_change_nothing(data: st.DataObject) -> None:
    """Also where as many are copied as are missing: the network without copies is the measure."""
    name = f"{HERE}:Mixed"
    manifold = unfitted(resolve(name).build("cpu").eval(), name, (3, 4, 4), False)
    one, two = manifold.frame.full.values()
    few = {"one": one, "two": data.draw(st.integers(1, two - 1))}
    copied = few | {"one": data.draw(st.integers(one + 1, 3 * one))}
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    narrow, wide = (manifold.sample(sizes=sizes, samples=0)(x) for sizes in (few, copied))
    torch.testing.assert_close(wide, narrow, rtol=1e-12, atol=1e-12)


def placed(shapes: dict, heads: int, counts: dict[str, list[int]]) -> dict:
    """Where rows of ``qkv`` (three parts of heads of three channels) and columns of ``out`` go."""
    size = 3 * heads * 3
    at = np.arange(size).reshape(3, heads, 3)
    of_heads = (at.transpose(1, 0, 2).reshape(heads, -1), np.arange(heads * 3).reshape(heads, 3))
    inside = (at[2].reshape(-1, 1), np.arange(heads * 3)[:, None])
    cliques = (
        Clique("heads", heads, (Member("qkv", 0, of_heads[0]), Member("out", 1, of_heads[1]))),
        Clique("v", 3, (Member("qkv", 0, inside[0]), Member("out", 1, inside[1])), heads),
    )
    trace = Trace((), cliques, shapes, (), ())
    return widened_places(shapes, trace, {n: np.array(c) for n, c in counts.items()})


def test_copies_of_a_head_follow_all_of_it_and_those_of_a_channel_the_channel() -> None:
    shapes = {"qkv": (18, 5), "out": (5, 6)}
    counts = {"heads": [1, 2], "v": [2, 0, 1, 1, 1, 0]}
    found = placed(shapes, 2, counts)
    first, second = [0, 0, 2], [3, 4, 3, 4]
    assert found["out", 1].tolist() == first + second
    kept = [0, 1, 2, 3, 4, 5, 3, 4, 5]
    parts = [kept, [6 + n for n in kept], [12 + n for n in first + second]]
    assert found["qkv", 0].tolist() == [n for part in parts for n in part]


def test_more_heads_compute_the_same() -> None:
    arch = replace(
        resolve("timm/vit_tiny_patch16_224"), kwargs={"depth": 2, "img_size": 32, "patch_size": 8}
    )
    model = arch.build("cpu").eval()
    randomise(model)
    given = "all", False, inr_settings(), NoiseSection(), "both"
    manifold = build_manifold(model, arch, (3, 32, 32), *given)[0].double()
    sizes = {c: 5 if c.endswith("@order") else n for c, n in manifold.frame.full.items()}
    assert farthest(manifold, sizes) < 1e-12
    few = {c: 16 if "qkv" in c and not c.endswith("@order") else n for c, n in sizes.items()}
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    found = [
        manifold.sample(sizes=few | {c: heads for c in few if c.endswith("@order")}, samples=0)(x)
        for heads in (3, 5)  # fewer places than the checkpoint has, and some of them copies
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
