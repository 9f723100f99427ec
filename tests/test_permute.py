"""Permuting never changes the function and never raises the total variation."""

import numpy as np
import pytest
import torch
from conftest import needs_shared, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neumeta_cli.errors import NeumetaError
from neumeta_cli.permute import SOLVERS, channel_distances, find_orders, path_length, permute_model
from neumeta_cli.resize import fold_batch_norm
from neumeta_cli.trace import trace_model

FAMILIES = [
    "cifar_resnet20",
    "lenet",
    "torchvision/resnet18",
    "torchvision/mobilenet_v3_small",
    "torchvision/densenet121",
    "torchvision/squeezenet1_1",
    "timm/efficientnet_b0",
]


class Block(nn.Module):
    """One layer of a random network, which keeps the number of channels."""

    def __init__(self, kind: str, channels: int, inner: int) -> None:
        super().__init__()
        self.kind = kind
        outputs = inner if kind == "concat" else channels
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1)
        self.norm = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, outputs, 1)
        self.merge = nn.Conv2d(channels + inner, channels, 1) if kind == "concat" else None
        self.gate = nn.Linear(channels, channels) if kind == "gate" else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.norm(self.conv1(x)).relu())
        if self.merge is not None:
            return self.merge(torch.cat([x, y], dim=1))
        if self.gate is not None:
            return y * self.gate(y.mean((2, 3)))[:, :, None, None].sigmoid()
        return x + y if self.kind == "residual" else y.relu()


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    channels = draw(st.integers(2, 9))
    kinds = draw(st.lists(st.sampled_from(["plain", "residual", "concat", "gate"]), max_size=3))
    torch.manual_seed(draw(st.integers(0, 1000)))
    layers: list[nn.Module] = [nn.Conv2d(2, channels, 3)]
    layers += [Block(kind, channels, draw(st.integers(2, 9))) for kind in kinds]
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 7), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(7, 3)).eval().double().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


@given(networks(), st.sampled_from(sorted(SOLVERS)), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_network_any_solver_same_function(model: nn.Module, solver: str, seed: int) -> None:
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    before = model(x)
    _, orders = permute_model(model, trace_model(model, (2, 6, 6)), solver, seed)
    assert orders
    assert relative_error(model(x), before) < 1e-10
    if solver in ("2.5-opt", "identity"):
        assert all(o.after <= o.before + 1e-9 for o in orders)


@pytest.mark.parametrize("name", FAMILIES)
def test_permuting_and_folding_real_networks_is_exact(build, name: str) -> None:
    model, arch = build(name)
    channels, height, _ = arch.default_input_size()
    size = (channels, min(height, 64), min(height, 64))
    model = model.double()
    x = torch.randn(2, *size, dtype=torch.float64)
    before = model(x)
    weights = {n: p.clone() for n, p in model.named_parameters() if p.dim() > 1}
    trace = trace_model(model, size)
    assert trace.share_governed() > 0.9
    permute_model(model, trace, "random")
    moved = sum(not torch.equal(model.get_parameter(n), w) for n, w in weights.items())
    assert moved > 0.8 * len(weights)
    assert relative_error(model(x), before) < 1e-10
    fold_batch_norm(model, size)
    assert relative_error(model(x), before) < 1e-10


@given(st.integers(2, 60), st.integers(0, 99), st.sampled_from(sorted(SOLVERS)))
@settings(max_examples=60, deadline=None)
def test_solvers_give_permutations_and_repeat_themselves(n: int, seed: int, solver: str) -> None:
    points = np.random.default_rng(seed).normal(size=(n, 3))
    distances = np.abs(points[:, None] - points[None]).sum(2)
    if solver == "python-tsp" and n > 20:
        n = 20
        distances = distances[:n, :n]
    order = SOLVERS[solver](distances, seed)
    assert sorted(order.tolist()) == list(range(n))
    assert order.tolist() == SOLVERS[solver](distances, seed).tolist()


@pytest.mark.parametrize("seed", range(8))
def test_the_local_search_finds_the_best_path_of_small_cliques(seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(9, 4))
    distances = np.abs(points[:, None] - points[None]).sum(2)
    exact = path_length(distances, SOLVERS["python-tsp"](distances, 0))
    found = path_length(distances, SOLVERS["2.5-opt"](distances, 0))
    assert found == pytest.approx(exact)


def test_points_on_a_line_come_out_in_order() -> None:
    places = np.random.default_rng(1).permutation(200).astype(float)
    order = SOLVERS["2.5-opt"](np.abs(places[:, None] - places[None]), 0)
    assert path_length(np.abs(places[:, None] - places[None]), order) == 199


def test_distances_are_what_the_order_adds_up(build) -> None:
    """Total variation computed straight from the permuted weights."""
    model, arch = build("cifar_resnet20")
    size = arch.default_input_size()
    trace = trace_model(model, size)
    names = {n for n, _ in model.named_parameters()}
    _, orders = permute_model(model, trace)
    state = model.state_dict()
    for clique, order in zip(trace.cliques, orders, strict=True):
        total = 0.0
        for m in clique.members:
            if m.weight in names:
                total += float(state[m.weight].double().diff(dim=m.dim).abs().sum())
        assert total == pytest.approx(order.after, rel=1e-4)


def test_an_unknown_solver_is_refused(build) -> None:
    model, arch = build("lenet")
    trace = trace_model(model, arch.default_input_size())
    with pytest.raises(NeumetaError, match=r"unknown solver 'lkh'; choose from 2\.5-opt"):
        find_orders(model.state_dict(), trace, [], solver="lkh")


@needs_shared
def test_the_shared_checkpoint_keeps_its_logits_and_gets_smooth() -> None:
    from conftest import SHARED

    from neumeta_cli.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(SHARED / "checkpoints" / "cifar10_resnet20.pth")
    model = checkpoint.model.double()
    x = torch.randn(8, 3, 32, 32, dtype=torch.float64)
    before = model(x)
    _, orders = permute_model(model, trace_model(model, checkpoint.input_size))
    assert relative_error(model(x), before) < 1e-10
    assert sum(o.before for o in orders) == pytest.approx(32_973, abs=1)
    assert sum(o.after for o in orders) < 30_145 * 1.0005  # the best known, by LKH


def test_identical_channels_are_at_distance_zero() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).requires_grad_(False)
    model[0].weight[2], model[0].bias[2] = model[0].weight[0], model[0].bias[0]
    model[2].weight[:, 2] = model[2].weight[:, 0]
    clique = trace_model(model, (3,)).cliques[0]
    distances = channel_distances(clique.members, np.arange(4), model.state_dict())
    assert distances[0, 2] == 0
    assert distances[0, 1] > 0
