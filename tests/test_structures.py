"""Structures that networks are made of, and networks that no library ships."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from model_checks import permutation_error, randomise, resize
from torch import Tensor, nn

from neumeta_cli.resize import resizable
from neumeta_cli.trace import Inputs, Trace, trace_model


def cliques(trace: Trace) -> dict[str, tuple[int, int]]:
    return {c.name: (c.channels, c.copies) for c in trace.cliques}


def check(model: nn.Module, inputs: Inputs, folder: Path, left: float = 0.5) -> Trace:
    """Trace a network, and permute and resize it exactly."""
    trace = trace_model(randomise(model), inputs)
    error, moved = permutation_error(model, trace, inputs)
    assert error < 1e-12
    assert moved > 0
    resized = resize(model, trace, inputs, folder / "half.safetensors")
    assert resized.same_outputs
    assert resized.reloads
    assert resized.exact_at_full
    assert resized.parameters_left < left
    return trace


class TwoBranches(nn.Module):
    """Two inputs through one encoder; only their difference goes on. Gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 8), nn.LayerNorm(8))
        self.gate = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        a, b = self.encoder(left), self.encoder(right)
        difference = (a - b) * self.gate(a + b).sigmoid()
        return {"score": self.head(difference), "size": difference.norm(dim=-1)}


def test_two_branches_with_shared_weights(tmp_path: Path) -> None:
    inputs = {"left": torch.empty(2, 5), "right": torch.empty(2, 5)}
    trace = check(TwoBranches(), inputs, tmp_path)
    assert cliques(trace) == {"encoder.0": (12, 1), "encoder.2": (8, 1)}


class UNet(nn.Module):
    """Skips are concatenated, transposed convolutions go up."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(3, width, 3, padding=1)
        self.down2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(4, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.merge2 = nn.Conv2d(4 * width, 2 * width, 3, padding=1)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.merge1 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.out = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x).relu()
        second = self.down2(first).relu()
        x = self.norm(self.middle(second)).relu()
        x = self.merge2(torch.cat([self.up2(x), second], 1)).relu()
        x = self.merge1(torch.cat([first, self.up1(x)], 1)).relu()
        return self.out(x)


def test_a_u_net(tmp_path: Path) -> None:
    trace = check(UNet(), (3, 16, 16), tmp_path, left=0.3)
    assert cliques(trace) == {
        "down1": (8, 1),
        "down2": (16, 1),
        "middle": (8, 4),
        "middle@order": (4, 1),
        "up2": (16, 1),
        "merge2": (16, 1),
        "up1": (8, 1),
        "merge1": (8, 1),
    }


class GroupedQueryBlock(nn.Module):
    """Attention with rotary positions in which several query heads share keys and values."""

    def __init__(self, dim: int, heads: int, shared: int, size: int) -> None:
        super().__init__()
        self.heads, self.shared, self.size = heads, shared, size
        self.norm = nn.RMSNorm(dim)
        self.q = nn.Linear(dim, heads * size, bias=False)
        self.kv = nn.Linear(dim, 2 * shared * size, bias=False)
        self.o = nn.Linear(heads * size, dim, bias=False)
        self.up, self.gate = nn.Linear(dim, 3 * dim), nn.Linear(dim, 3 * dim)
        self.down = nn.Linear(3 * dim, dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        y = self.norm(x)
        q = self.q(y).view(batch, length, self.heads, self.size).transpose(1, 2)
        kv = self.kv(y).view(batch, length, 2, self.shared, self.size).permute(2, 0, 3, 1, 4)
        q, k = _rotate(q, cos, sin), _rotate(kv[0], cos, sin)
        k, v = (t.repeat_interleave(self.heads // self.shared, dim=1) for t in (k, kv[1]))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(batch, length, -1))
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 24)
        self.blocks = nn.ModuleList(GroupedQueryBlock(24, 4, 2, 6) for _ in range(2))
        self.head = nn.Linear(24, 11)
        frequency = 100.0 ** -torch.arange(0, 1, 1 / 3)
        angles = torch.arange(16)[:, None] * torch.cat([frequency, frequency])
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens)
        for block in self.blocks:
            x = block(x, self.cos[: x.shape[1]], self.sin[: x.shape[1]])
        return self.head(x)


def test_rotary_attention_with_grouped_queries(tmp_path: Path) -> None:
    """Rotation pins the channels of queries and keys; heads move in their groups."""
    inputs = (torch.zeros(2, 16, dtype=torch.int64),)
    trace = check(Transformer(), inputs, tmp_path, left=0.5)
    sizes = [(c.channels, c.copies) for c in trace.cliques if "blocks.1" not in c.name]
    assert sorted(sizes) == [
        (2, 1),  # heads of keys and values, each with two heads of queries
        (2, 2),  # heads of queries that share keys
        (6, 2),  # channels of values, in each of two heads
        (24, 1),
        (72, 1),
    ]


class ParameterFree(nn.Module):
    """A residual network whose shortcuts pad channels with zeros (He et al., option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.head((self.second(x) + short).relu().mean((2, 3)))


def test_channels_padded_with_zeros_move_among_themselves(tmp_path: Path) -> None:
    trace = check(ParameterFree(), (3, 8, 8), tmp_path, left=1.01)
    assert cliques(trace) == {"first": (4, 1), "second": (2, 1), "second#2": (2, 1)}


class Mixer(nn.Module):
    """A state-space mixer: a depthwise convolution in time, a gate, a scan; and an FFT filter."""

    def __init__(self, dim: int = 8, states: int = 4) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, 4 * dim)
        self.conv = nn.Conv1d(2 * dim, 2 * dim, 3, padding=2, groups=2 * dim)
        self.project = nn.Linear(2 * dim, 2 * states)
        self.decay = nn.Parameter(torch.rand(2 * dim, states))
        self.outer = nn.Linear(2 * dim, dim)
        self.spectrum = nn.Parameter(torch.randn(9, dim, 2))

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        y, gate = self.inner(x).chunk(2, dim=-1)
        y = self.conv(y.transpose(1, 2))[..., :length].transpose(1, 2)
        into, out = self.project(y).chunk(2, dim=-1)
        state = y.new_zeros(len(x), y.shape[-1], into.shape[-1])
        steps = []
        for t in range(length):
            state = state * self.decay.sigmoid() + y[:, t, :, None] * into[:, t, None]
            steps.append(torch.einsum("bds,bs->bd", state, out[:, t]))
        x = x + self.outer(torch.stack(steps, 1) * F.silu(gate))
        filtered = torch.fft.rfft(x, dim=1) * torch.view_as_complex(self.spectrum)
        return x + torch.fft.irfft(filtered, n=length, dim=1)


def test_state_space_and_fourier_mixers(tmp_path: Path) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mixer, self.head = nn.Linear(3, 8), Mixer(), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.mixer(self.stem(x)).mean(1))

    trace = check(Network(), (16, 3), tmp_path)
    assert {(8, 1), (16, 1), (4, 1)} <= set(cliques(trace).values())


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 6)
        self.rnn = kind(6, 10, batch_first=True, bidirectional=True)
        self.head = nn.Linear(20, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.stem(x))[0].mean(1))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_gates_move_together(kind: type[nn.RNNBase], tmp_path: Path) -> None:
    trace = check(Recurrent(kind), (5, 3), tmp_path)
    assert sorted(cliques(trace).values()) == [(6, 1), (10, 1), (10, 1)]


class Shuffles(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(8, 12, 3, groups=2, padding=1)
        self.shuffle = nn.ChannelShuffle(2)
        self.depthwise = nn.Conv2d(12, 24, 3, groups=12)
        self.up = nn.Conv2d(24, 16, 1)
        self.pixels = nn.PixelShuffle(2)
        self.last = nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shuffle(self.grouped(self.first(x)))
        return self.last(self.pixels(self.up(self.depthwise(x))).relu())


def test_groups_shuffles_and_multipliers(tmp_path: Path) -> None:
    trace = check(Shuffles(), (3, 8, 8), tmp_path, left=0.6)
    assert trace.share_governed() > 0.99
    assert cliques(trace)["up"] == (4, 1)  # blocks of four places in space


class HardCoded(nn.Module):
    """A size written out in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.fixed, self.last = nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.fixed(self.free(x).relu()).view(len(x), 6))


def test_a_size_written_in_the_forward_pass_is_held_and_named() -> None:
    model = randomise(HardCoded())
    trace = resizable(model, trace_model(model, (3,)), (3,))
    held = {c.name: c.held for c in trace.cliques}
    assert not held["free"]
    assert "its size is fixed in the forward pass" in held["fixed"]


def test_parameters_that_are_alike_but_not_treated_alike_stay_apart() -> None:
    """Rows of a position table are added to inputs, whose places are given."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Parameter(torch.randn(5, 4))
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last((self.first(x) + self.place).tanh().mean(1))

    trace = trace_model(Positions(), (5, 3))
    assert cliques(trace) == {"first": (4, 1)}  # the five positions stay


class TwoHeadsOfTwo(nn.Module):
    """The example that ``labels`` and ``symmetry`` work through by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(3, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(-1, 5, 2, 2).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(-1, 5, 4))


def test_two_heads_of_two_channels_are_as_worked_out_by_hand() -> None:
    cliques = {c.name: c for c in trace_model(TwoHeadsOfTwo(), (5, 3)).cliques}
    told = {
        name: (c.channels, c.copies, c.order_only, sorted({str(m.weight) for m in c.members}))
        for name, c in cliques.items()
    }
    inside, values = ["k.bias", "k.weight", "q.bias", "q.weight"], ["v.bias", "v.weight"]
    assert told == {
        "q@order": (2, 2, True, inside),
        "q": (2, 1, False, sorted(["out.weight", *inside, *values])),
        "v@order": (2, 2, True, ["out.weight", *values]),
    }
    assert cliques["q"].members[0].positions.tolist() == [[0, 1], [2, 3]]
    assert sorted(cliques["q@order"].members[0].positions.flatten().tolist()) == [0, 1, 2, 3]
