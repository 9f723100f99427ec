"""Networks at other sizes: what follows a width, and which widths go together."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from model_checks import randomise
from torch import Tensor, nn

from neumeta_cli.resize import (
    build_resized,
    open_frame,
    resizable,
    resize_model,
    select_channels,
    sizes_at,
)
from neumeta_cli.trace import Trace, trace_model


class EqualPieces(nn.Module):
    """Halves of a concatenation that consist of different cliques."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 12), nn.Linear(3, 4)
        self.left, self.right = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.cat([self.a(x), self.b(x)], 1).chunk(2, 1)
        return self.left(left) + self.right(right)


@given(st.floats(0.1, 1.6))
@settings(max_examples=40, deadline=None)
def test_equal_pieces_stay_equal_at_any_width(width: float) -> None:
    model = randomise(EqualPieces())
    trace = trace_model(model, (3,))
    assert sorted(c.channels for c in trace.cliques) == [4, 4, 8]
    sizes = sizes_at(trace, [c.name for c in trace.cliques], width)
    small = resize_model(model, trace, sizes)
    assert small(torch.empty(1, 3, device="meta")).shape == (1, 2)
    for clique in trace.cliques:
        assert abs(sizes[clique.name] - width * clique.channels) <= 1.5


class SizesInAttributes(nn.Module):
    """Equal numbers that follow different layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 32), nn.Linear(32, 32), nn.Linear(32, 2)
        self.one, self.two = 32, 32
        self.parts = (32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).view(-1, self.one).relu()
        x = self.second(x).view(-1, self.two).relu()
        x, _ = torch.cat([x, x.new_zeros(len(x), 4)], 1).split(self.parts, 1)
        return self.last(x)


@pytest.mark.parametrize("changed", [["first"], ["second"], ["first", "second"]])
def test_a_number_follows_the_layer_that_it_belongs_to(changed: list[str]) -> None:
    model = randomise(SizesInAttributes())
    trace = resizable(model, trace_model(model, (3,)), (3,))
    assert not any(c.held for c in trace.cliques)
    small = resize_model(model, trace, sizes_at(trace, changed, 0.5))
    assert small(torch.empty(1, 3, device="meta")).shape == (1, 2)
    assert small.one == (16 if "first" in changed else 32)
    assert small.two == (16 if "second" in changed else 32)
    assert small.parts == ((16, 4) if "second" in changed else (32, 4))


class Blur(nn.Module):
    """A fixed filter, one for each channel, that no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.channels = 6
        self.register_buffer("kernel", torch.ones(6, 1, 3, 3) / 9, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.conv2d(self.first(x), self.kernel, groups=self.channels))


@pytest.mark.parametrize("width", [0.5, 1.5])
def test_constants_that_are_alike_for_all_channels_follow_the_width(width: float) -> None:
    model = randomise(Blur())
    trace = resizable(model, trace_model(model, (3, 8, 8)), (3, 8, 8))
    (clique,) = trace.cliques
    assert not clique.held
    sizes = sizes_at(trace, [clique.name], width)
    other = resize_model(model, trace, sizes)
    assert other.kernel.shape == (6 * width, 1, 3, 3)
    assert torch.equal(other.kernel, torch.full_like(other.kernel, 1 / 9))


def test_constants_that_tell_channels_apart_hold_them() -> None:
    model = Blur()
    model.kernel = torch.randn(6, 1, 3, 3)
    assert not trace_model(randomise(model), (3, 8, 8)).cliques


class SharesOneTensor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(3, 6), nn.Linear(3, 6)
        self.again.weight = self.first.weight
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) + self.again(x).relu())


def test_one_tensor_under_two_names_stays_one() -> None:
    model = randomise(SharesOneTensor())
    trace = trace_model(model, (3,))
    sizes, kept = {"first": 3}, _first_channels(trace, 3)
    small = build_resized(
        model, trace, sizes, select_channels(dict(model.state_dict()), trace, kept)
    )
    assert small.first.weight is small.again.weight
    assert small(torch.randn(2, 3)).shape == (2, 2)


def _first_channels(trace: Trace, count: int) -> dict[str, list[int]]:
    return {c.name: list(range(count)) for c in trace.cliques}


class Branches(nn.Module):
    """Two layers of which one must keep its width, whichever; under names that are given."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__()
        self.names = one, other
        for name in self.names:
            self.add_module(name, nn.Linear(4, 6))
        self.last = nn.ModuleList(nn.Linear(6, 2) for _ in self.names)

    def forward(self, x: Tensor) -> Tensor:
        one, other = (self.get_submodule(name)(x) for name in self.names)
        if one.shape[1] + other.shape[1] < 9:
            raise ValueError("too narrow")
        return self.last[0](one) + self.last[1](other)


def test_what_is_held_does_not_depend_on_how_strings_are_hashed() -> None:
    """Which Python changes from process to process (PYTHONHASHSEED); other names do the same."""
    for n in range(12):
        one, other = f"a{'xyz' * n}", f"b{'zyx' * n}"
        trace = open_frame(Branches(one, other), (4,)).trace
        assert {c.name: bool(c.held) for c in trace.cliques} == {one: False, other: True}, n
