"""Tracing finds what is tied, and fixes what it does not understand."""

import networkx as nx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from neumeta_cli.errors import NeumetaError
from neumeta_cli.trace import Trace, fast_shapes, trace_model
from neumeta_cli.trace.unions import Unions, components


def members(trace: Trace, name: str) -> set[str]:
    return {str(m) for c in trace.cliques if c.name == name for m in c.members}


def test_resnet20_has_the_cliques_one_expects(build) -> None:
    model, arch = build("cifar_resnet20")
    trace = trace_model(model, arch.default_input_size())
    sizes = {c.name: c.channels for c in trace.cliques}
    inner = {f"layer{s}.{b}.conv1": 8 * 2**s for s in (1, 2, 3) for b in range(3)}
    streams = {"conv1": 16, "layer2.0.downsample.0": 32, "layer3.0.downsample.0": 64}
    assert sizes == inner | streams
    assert members(trace, "layer3.2.conv1") == {
        "layer3.2.conv1.weight[0]",
        *(f"layer3.2.bn1.{t}[0]" for t in ("weight", "bias", "running_mean", "running_var")),
        "layer3.2.conv2.weight[1]",
    }
    assert "fc.weight[1]" in members(trace, "layer3.0.downsample.0")
    assert not trace.refusals


def test_flatten_makes_blocks(build) -> None:
    model, arch = build("lenet")
    trace = trace_model(model, arch.default_input_size())
    assert "fc1.weight[1] in blocks of 49" in members(trace, "conv2")
    assert {c.channels for c in trace.cliques} == {6, 16, 120, 84}  # the ten classes stay


class Concatenates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.depthwise = nn.Conv2d(10, 10, 3, groups=10)
        self.out = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.left(x), F.relu(self.right(x))], dim=1)
        return self.out(self.depthwise(both).mean((2, 3)))


def test_concatenation_gives_slices() -> None:
    trace = trace_model(Concatenates(), (3, 8, 8))
    assert members(trace, "right") == {
        "right.weight[0]",
        "right.bias[0]",
        "depthwise.weight[0] from 4",
        "depthwise.bias[0] from 4",
        "out.weight[1] from 4",
    }


class TreatsHalvesUnlike(nn.Module):
    """Two halves of one tensor go through different functions: they must not mix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).chunk(2, dim=1)
        return self.last(torch.cat([a.relu(), b.sigmoid()], dim=1))


def test_halves_that_are_treated_unlike_are_two_cliques() -> None:
    trace = trace_model(TreatsHalvesUnlike(), (3,))
    assert sorted(c.channels for c in trace.cliques) == [4, 4]


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.lgamma(self.first(x)))


def test_an_unknown_operator_fixes_what_it_touches_and_is_named() -> None:
    trace = trace_model(Unknown(), (4,))
    assert not trace.cliques
    assert [r.op for r in trace.refusals] == ["lgamma"]


def test_positional_weights_are_fixed() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
            self.register_buffer("ramp", torch.arange(6.0), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x) * torch.ones(6) + self.ramp)

    assert not trace_model(Positions(), (4,)).cliques


def test_no_weights_are_allocated(build) -> None:
    model, arch = build("cifar_resnet20")
    before = {n: p.data_ptr() for n, p in model.named_parameters()}
    trace_model(model, arch.default_input_size())
    assert {n: p.data_ptr() for n, p in model.named_parameters()} == before


def test_a_wrong_input_size_is_said(build) -> None:
    model, _ = build("lenet")
    with pytest.raises(NeumetaError, match="does not run on an input of 3×28×28"):
        trace_model(model, (3, 28, 28))


@given(
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3) | st.just([]),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 2),
    sides=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_a_pooled_shape_is_pytorchs_and_so_is_what_it_refuses(
    kernel: int, stride: int | list[int], padding: int, dilation: int, sides: tuple[int, int]
) -> None:
    pool = torch.ops.aten.max_pool2d_with_indices.default
    whole = [[n] for n in (kernel, padding, dilation)]
    steps = [stride] if isinstance(stride, int) else stride
    args = (torch.empty(2, 3, *sides), whole[0], steps, whole[1], whole[2])
    try:
        expected = [(t.shape, t.dtype) for t in pool(*args)]
    except RuntimeError:
        with pytest.raises(RuntimeError):
            fast_shapes.run(pool, (args[0].to("meta"), *args[1:]), {})
    else:
        found = fast_shapes.run(pool, (args[0].to("meta"), *args[1:]), {})
        assert [(t.shape, t.dtype) for t in found] == expected


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20))
def test_what_is_equal_through_others_is_one_component(pairs: list[tuple[int, int]]) -> None:
    graph = nx.Graph(pairs)
    graph.add_nodes_from(range(12))
    sets = sorted(map(sorted, nx.connected_components(graph)))
    a, b = np.array(pairs, np.int64).reshape(-1, 2).T
    found = components(12, a, b).tolist()
    assert found == [next(i for i, s in enumerate(sets) if n in s) for n in range(12)]
    unions = Unions()
    for pair in pairs:
        unions.unite(*pair)
    together = {(m, n) for m in range(12) for n in range(12) if unions.root(m) == unions.root(n)}
    assert together == {(m, n) for s in sets for m in s for n in s}
