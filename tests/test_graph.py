"""The table and the picture of a trace."""

import re
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import pytest
import torch
from torch import nn

from neumeta_cli.checkpoint import resolve
from neumeta_cli.cli.tracing import _cliques_table, _remarks
from neumeta_cli.evaluate.graph import _collapsed, _weighted_operators, plot_graph
from neumeta_cli.resize import open_frame
from neumeta_cli.trace import Trace


class Residual(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.a = nn.Linear(channels, inner, bias=False)
        self.b = nn.Linear(inner, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(self.a(x).relu())


class Turns(nn.Module):
    """Two lists of like blocks that take turns."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.two = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for one, two in zip(self.one, self.two, strict=True):
            x = two(one(x).relu()).relu()
        return x


class Fixed(nn.Module):
    """A size written out in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x).view(-1, 6))


def stack(*inner: int) -> Trace:
    blocks = nn.Sequential(*(Residual(16, width) for width in inner))
    network = nn.Sequential(nn.Linear(4, 16), blocks, nn.Linear(16, 3))
    return open_frame(network, (4,)).trace


def texts(graph: "nx.DiGraph") -> list[str]:
    shown = [d for _, d in graph.nodes(data=True)]
    return [d["text"] + (f" ×{d['times']}" if d["times"] > 1 else "") for d in shown]


def test_blocks_in_a_row_that_are_alike_are_drawn_once() -> None:
    graph = _weighted_operators(stack(32, 32, 32, 8, 8))
    assert len(graph) == 2 + 5 * 3
    small = _collapsed(graph)
    assert texts(small) == [
        *("0  16", "1.0.a  32 ×3", "1.0.b  16 ×3", "add ×3"),
        *("1.3.a  8 ×2", "1.3.b  16 ×2", "add ×2", "2"),
    ]
    assert nx.is_directed_acyclic_graph(small)
    assert nx.is_weakly_connected(small)
    names = {node: data["text"] for node, data in small.nodes(data=True)}
    edges = {(names[a], names[b]) for a, b in small.edges}
    assert {("0  16", "1.0.a  32"), ("1.0.a  32", "1.0.b  16"), ("1.0.b  16", "add")} < edges
    assert ("1.0.b  16", "1.0.a  32") not in edges


def test_nothing_is_collapsed_into_a_circle() -> None:
    graph = _weighted_operators(open_frame(Turns(), (8,)).trace)
    small = _collapsed(graph)
    assert nx.is_directed_acyclic_graph(small)
    assert sum(data["times"] for _, data in small.nodes(data=True)) == len(graph)


@pytest.mark.parametrize("collapse", [False, True])
def test_the_picture_shows_widths_and_numbers(tmp_path: Path, collapse: bool) -> None:
    trace = stack(*[32] * 4)
    text = plot_graph(trace, tmp_path / "graph.svg", collapse).read_text("utf-8")
    assert ("1.0.a  32  ×4" in text) == collapse
    assert ("1.3.a  32" in text) != collapse


def test_the_picture_shows_heads_as_heads(tmp_path: Path) -> None:
    arch = resolve("timm/vit_tiny_patch16_224")
    trace = open_frame(arch.build(), arch.default_input_size()).trace
    text = plot_graph(trace, tmp_path / "graph.svg", collapse=True).read_text("utf-8")
    assert "blocks.0.attn.qkv  3×64  ×12" in text
    assert "blocks.0.attn.proj  192  ×12" in text


def told(trace: Trace, collapse: bool, capsys: pytest.CaptureFixture[str]) -> str:
    from neumeta_cli.cli.console import say

    say(_cliques_table("net", trace, collapse))
    for line in _remarks(trace):
        say(line)
    return re.sub(r" *│ *", "|", capsys.readouterr().out)


def test_the_table_says_what_can_shrink_and_why_not(
    capsys: pytest.CaptureFixture[str], build: Callable
) -> None:
    text = told(stack(32, 32, 8), False, capsys)
    assert "net: 4 cliques, " in text
    assert "|1.1.a|32|1,024|yes|1.1.a.weight[0] and 1 more|" in text
    held = told(open_frame(Fixed(), (4,)).trace, False, capsys)
    assert "|a|6|42|no|a.weight[0] and 2 more|" in held
    assert re.search(r"^a: its size is fixed in the forward pass of b: ", held, re.M)


def test_cliques_that_are_alike_are_one_line_when_collapsed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = told(stack(32, 32, 8, 8, 8), True, capsys)
    assert "|1.0.a  ×2|32|" in text
    assert "|1.2.a  ×3|8|" in text
    assert "1.1.a" not in text
