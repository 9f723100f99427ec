"""Permuting never changes the function and never raises the total variation."""

import itertools
import random
from typing import get_args

import numpy as np
import pytest
import torch
from conftest import needs_shared, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neumeta_cli.choices import Norm, Weighting
from neumeta_cli.errors import NeumetaError
from neumeta_cli.permute import (
    SOLVERS,
    Objective,
    Ordering,
    apply_orders,
    channel_distances,
    find_orders,
    local_search,
    path_length,
    permute_model,
)
from neumeta_cli.permute.compiling import compiled
from neumeta_cli.permute.solvers import EXACT
from neumeta_cli.resize import open_frame
from neumeta_cli.trace import Clique, Member, trace_model

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


def total_variation(state: dict[str, Tensor], clique: Clique, names: set[str]) -> float:
    """Computed straight from the weights, in float64."""
    total = 0.0
    for m in clique.members:
        if m.weight in names:
            along = state[m.weight].double().movedim(m.dim, 0)
            channels = along[torch.from_numpy(m.positions)].flatten(1)
            copies = channels.view(clique.copies, clique.channels, -1)
            total += float(copies.diff(dim=1).abs().sum())
    return total


ANY_SIZE = sorted(name for name in SOLVERS if name.rpartition(":")[2] not in EXACT)


@pytest.mark.slow
@given(networks(), st.sampled_from(ANY_SIZE), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_network_any_solver_same_function(model: nn.Module, solver: str, seed: int) -> None:
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    before = model(x)
    trace = trace_model(model, (2, 6, 6))
    names = {n for n, _ in model.named_parameters()}
    stored = [total_variation(model.state_dict(), c, names) for c in trace.cliques]
    _, orders = permute_model(model, trace, Ordering(solver, seed))
    assert orders
    assert relative_error(model(x), before) < 1e-10
    for clique, order, least in zip(trace.cliques, orders, stored, strict=True):
        variation = total_variation(model.state_dict(), clique, names)
        assert variation == pytest.approx(order.after, rel=1e-5)
        assert least == pytest.approx(order.before, rel=1e-5)
        if solver != "random":
            assert variation <= least


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_convnext", "shufflenet_v2_x0_5"])
@pytest.mark.parametrize("solver", ["2.5-opt", "random"])
def test_structured_cliques_add_up_to_what_they_say(build, name: str, solver: str) -> None:
    """Channels in heads, heads as blocks of them, concatenated and interleaved parts."""
    model, arch = build(name)
    trace = trace_model(model, arch.default_input_size())
    names = {n for n, _ in model.named_parameters()}
    _, orders = permute_model(model, trace, Ordering(solver))
    for clique, order in zip(trace.cliques, orders, strict=True):
        variation = total_variation(model.state_dict(), clique, names)
        assert variation == pytest.approx(order.after, rel=1e-5), clique.name


@pytest.mark.slow
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
    permute_model(model, trace, Ordering("random"))
    moved = sum(not torch.equal(model.get_parameter(n), w) for n, w in weights.items())
    assert moved > 0.8 * len(weights)
    assert relative_error(model(x), before) < 1e-10
    open_frame(model, size).fold(model)
    assert relative_error(model(x), before) < 1e-10


def random_distances(n: int, seed: int, dims: int = 3) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(n, dims))
    return np.abs(points[:, None] - points[None]).sum(2)


@pytest.mark.slow
@given(st.integers(1, 60), st.integers(0, 99), st.sampled_from(sorted(SOLVERS)))
@settings(max_examples=60, deadline=None)
def test_solvers_give_permutations_and_repeat_themselves(n: int, seed: int, solver: str) -> None:
    if solver.startswith("python-tsp"):
        n = min(n, 6 if solver.rpartition(":")[2] in EXACT else 20)
    distances = random_distances(n, seed)
    state = random.getstate()
    order = SOLVERS[solver](distances, seed, None)
    assert sorted(order.tolist()) == list(range(n))
    assert order.tolist() == SOLVERS[solver](distances, seed, None).tolist()
    assert random.getstate() == state


@pytest.mark.slow
@given(st.integers(1, 14), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_local_search_ends_on_equal_distances(n: int, values: int, seed: int) -> None:
    distances = np.random.default_rng(seed).integers(0, values, (n, n)).astype(np.float32)
    distances = np.triu(distances, 1) + np.triu(distances, 1).T
    order = SOLVERS["2.5-opt"](distances, seed, None)
    assert sorted(order.tolist()) == list(range(n))
    assert path_length(distances, order) <= path_length(distances, np.arange(n))


@pytest.mark.slow
def test_a_time_limit_is_kept(monkeypatch) -> None:
    """By a clock that goes on by a millisecond whenever it is read."""
    distances = random_distances(400, 0, 50).astype(np.float32)
    now = itertools.count()
    monkeypatch.setattr(local_search.time, "monotonic", lambda: next(now) / 1000)
    SOLVERS["2.5-opt"](distances, 0, None)
    unlimited = next(now)
    order = SOLVERS["2.5-opt"](distances, 0, 0.02)
    assert next(now) - unlimited < 30 < unlimited
    assert sorted(order.tolist()) == list(range(400))
    assert path_length(distances, order) < path_length(
        distances, SOLVERS["greedy"](distances, 0, None)
    )


def test_python_tsps_exact_solvers_say_that_a_clique_is_too_large() -> None:
    with pytest.raises(NeumetaError, match="takes up to 12 channels"):
        SOLVERS["python-tsp:branch_and_bound"](random_distances(13, 0), 0, None)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=3),
    st.integers(2, 13),
    st.sampled_from(get_args(Norm)),
    st.sampled_from(get_args(Weighting)),
)
@settings(max_examples=60, deadline=None)
def test_distances_are_those_of_the_definition(
    sizes: list[tuple[int, int]], channels: int, norm: Norm, weighting: Weighting
) -> None:
    """Any number of members, values per channel and channels; channels that repeat."""
    tensors, members = {}, []
    expected = torch.zeros(channels, channels, dtype=torch.float64)
    for i, (others, repeat) in enumerate(sizes):
        tensors[f"w{i}"] = torch.randn(others, channels * repeat)
        positions = np.arange(channels * repeat).reshape(repeat, channels).T
        members.append(Member(f"w{i}", 1, positions))
        rows = tensors[f"w{i}"].double().view(others, repeat, channels).permute(2, 0, 1).flatten(1)
        added = torch.cdist(rows, rows, 1 if norm == "l1" else 2)
        if weighting == "equal":
            added /= added.triu().sum()
        if weighting != "producer" or i == 0:
            expected += added
    found = channel_distances(members, np.arange(channels), tensors, Objective(norm, weighting))
    assert found.dtype == np.float32
    # Distances of l2 come from products of rows, which costs near channels their last digits.
    assert np.allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6 if norm == "l1" else 2e-3)
    assert (found == found.T).all()


def test_cliques_of_one_weight_are_solved_finest_first(build) -> None:
    """With orders at random the inner channels' places depend on what is applied first."""
    model, arch = build("timm/test_vit")
    trace = trace_model(model, arch.default_input_size())
    heads = [c for c in trace.cliques if c.order_only]
    inner = [c for c in trace.cliques if c.copies > 1]
    assert heads
    assert inner
    state = model.state_dict()
    rng = np.random.default_rng(0)
    orders = {c.name: rng.permutation(c.rows) for c in heads}
    orders |= {
        c.name: np.concatenate(
            [k * c.channels + rng.permutation(c.channels) for k in range(c.copies)]
        )
        for c in inner
    }
    at_once = apply_orders(state, trace.cliques, orders)
    one_by_one = apply_orders(apply_orders(state, inner, orders), heads, orders)
    assert all(torch.equal(at_once[n], one_by_one[n]) for n in state)


@pytest.mark.parametrize("seed", range(8))
def test_the_local_search_finds_the_best_path_of_small_cliques(seed: int) -> None:
    distances = random_distances(9, seed, 4)
    exact = path_length(distances, SOLVERS["python-tsp"](distances, 0, None))
    found = path_length(distances, SOLVERS["2.5-opt"](distances, 0, None))
    assert found == pytest.approx(exact)


def test_points_on_a_line_come_out_in_order() -> None:
    places = np.random.default_rng(1).permutation(200).astype(float)
    order = SOLVERS["2.5-opt"](np.abs(places[:, None] - places[None]), 0, None)
    assert path_length(np.abs(places[:, None] - places[None]), order) == 199


def test_an_unknown_solver_is_refused(build) -> None:
    model, arch = build("lenet")
    trace = trace_model(model, arch.default_input_size())
    with pytest.raises(NeumetaError, match=r"unknown solver 'lkh'; choose from 2\.5-opt"):
        find_orders(model.state_dict(), trace, [], Ordering("lkh"))


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


def test_functions_are_compiled_where_no_folder_can_be_written_to(monkeypatch) -> None:
    def twice(n: int) -> int:
        return 2 * n

    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    assert compiled()(twice)(21) == 42
