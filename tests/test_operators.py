"""Operators on places, regions and distances, and layers whose sizes lie elsewhere: all exact."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision.ops
from model_checks import permutation_error, randomise
from test_structures import check, cliques
from torch import Tensor, nn

from neumeta_cli.checkpoint import Arch
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export.choose.wish import cost_of
from neumeta_cli.export.programs import PROGRAMS
from neumeta_cli.manifold import build_manifold, inr_settings
from neumeta_cli.manifold.inr import KINDS
from neumeta_cli.manifold.settings import NoiseSection
from neumeta_cli.resize import open_frame
from neumeta_cli.trace import trace_model

Between = Callable[[Tensor], Tensor]


class Around(nn.Module):
    """A layer, a function of its channels, and a layer that reads what this gives."""

    def __init__(self, first: nn.Module, between: Between, last: nn.Module) -> None:
        super().__init__()
        self.first, self.last = first, last
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(torch.relu(self.first(x))))


def flat(between: Between) -> Around:
    """Over (n, 8, 8, 8): channels and space."""
    return Around(nn.Conv2d(3, 8, 3, padding=1), between, nn.Conv2d(8, 4, 1))


def tokens(between: Between) -> Around:
    """Over (n, 6, 8): places and channels."""
    return Around(nn.Linear(2, 8), between, nn.Linear(8, 4))


def unpooled(x: Tensor) -> Tensor:
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(pooled * 2, indices, 2)


def scattered(x: Tensor, reduce: str | None = None) -> Tensor:
    """Pairs of places written into one."""
    places = torch.arange(x.shape[1], device=x.device) // 2
    index = places[None, :, None].expand(x.shape)
    target = torch.zeros(x.shape[0], 4, x.shape[2], device=x.device, dtype=x.dtype)
    if reduce is None:
        return target.scatter(1, index[:, ::2], x[:, ::2])
    return target.scatter_reduce(1, index, x, reduce)


def listed(x: Tensor, method: str) -> Tensor:
    index = torch.tensor([0, 2], device=x.device)
    if method == "index_fill":
        return x.index_fill(1, index, 0.5)
    return getattr(x, method)(1, index, x[:, 3:5] * 2)


def boxes(like: Tensor) -> Tensor:
    rows = [[0, 0.0, 0, 4, 4], [0, 1, 1, 5, 5]]
    return torch.tensor(rows, dtype=like.dtype, device=like.device)


OPERATORS = {
    "max_unpool2d": (flat(unpooled), (3, 8, 8)),
    "trilinear": (
        Around(
            nn.Conv3d(2, 8, 3, padding=1),
            lambda x: F.interpolate(x, scale_factor=2, mode="trilinear"),
            nn.Conv3d(8, 4, 1),
        ),
        (2, 3, 4, 4),
    ),
    "scatter": (tokens(scattered), (6, 2)),
    "scatter_reduce": (tokens(lambda x: scattered(x, "amax")), (6, 2)),
    "index_add": (tokens(lambda x: listed(x, "index_add")), (6, 2)),
    "index_copy": (tokens(lambda x: listed(x, "index_copy")), (6, 2)),
    "index_fill": (tokens(lambda x: listed(x, "index_fill")), (6, 2)),
    "roi_align": (flat(lambda x: torchvision.ops.roi_align(x, boxes(x), (2, 2))), (3, 8, 8)),
    "roi_pool": (flat(lambda x: torchvision.ops.roi_pool(x, boxes(x), (2, 2))), (3, 8, 8)),
    "ps_roi_align": (
        Around(
            nn.Conv2d(3, 32, 3, padding=1),
            lambda x: torchvision.ops.ps_roi_align(x, boxes(x), 2),
            nn.Conv2d(8, 4, 1),
        ),
        (3, 8, 8),
    ),
    "cdist": (
        Around(nn.Linear(2, 8), lambda x: torch.cdist(x, x.flip(1)), nn.Linear(6, 3)),
        (6, 2),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_channels_pass_operators_on_places(name: str, tmp_path: Path) -> None:
    network, inputs = OPERATORS[name]
    trace = check(network, inputs, tmp_path, left=0.75)
    assert not trace.refusals
    assert cliques(trace) == {"first": (8, 1)}


class Deformable(nn.Module):
    """Offsets and a mask from the very channels that they move."""

    def __init__(self, groups: int = 1, offset_groups: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.offset = nn.Conv2d(8, 18 * offset_groups, 3, padding=1)
        self.mask = nn.Conv2d(8, 9 * offset_groups, 3, padding=1)
        self.deform = torchvision.ops.DeformConv2d(8, 12, 3, padding=1, groups=groups)
        self.last = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.relu(self.deform(x, self.offset(x), self.mask(x).sigmoid())))


@pytest.mark.parametrize("groups", [1, 2])
def test_deformable_convolutions(groups: int, tmp_path: Path) -> None:
    trace = check(Deformable(groups), (3, 8, 8), tmp_path)
    offsets = {m.weight for c in trace.cliques for m in c.members if m.dim == 0}
    assert not offsets & {"offset.weight", "mask.weight"}


def test_several_groups_of_offsets_are_held_with_the_reason() -> None:
    trace = trace_model(randomise(Deformable(offset_groups=2)), (3, 8, 8))
    (refusal,) = trace.refusals
    assert (refusal.module, refusal.reason) == (
        "deform",
        "several groups of offsets, each for channels of its own",
    )


class Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(6, 8)
        self.both = nn.Bilinear(8, 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(torch.relu(self.left(x)), torch.relu(self.right(x)))


def test_bilinear_layers_permute_exactly() -> None:
    network = randomise(Pairs())
    trace = trace_model(network, (6,))
    error, moved = permutation_error(network, trace, (6,))
    assert error < 1e-12
    assert moved > 0.9
    assert cliques(trace) == {"left": (8, 1), "right": (8, 1)}


class Sparse(nn.Module):
    """Writes along the channels themselves, which then are places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        values, places = x.topk(2, dim=1)
        return self.last(torch.zeros_like(x).scatter(1, places, values))


def test_channels_that_an_index_names_stay() -> None:
    trace = trace_model(Sparse(), (2,))
    assert not trace.cliques


class Transposed(nn.Module):
    """A depthwise transposed convolution, each channel of which becomes ``times``."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.up = nn.ConvTranspose2d(8, 8 * times, 2, stride=2, groups=8)
        self.norm = nn.BatchNorm2d(8 * times)
        self.last = nn.Conv2d(8 * times, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.up(torch.relu(self.first(x))))))


@pytest.mark.parametrize("times", [1, 2])
def test_depthwise_transposed_convolutions_are_resized(times: int, tmp_path: Path) -> None:
    check(Transposed(times), (3, 8, 8), tmp_path, left=0.55)


def test_norms_after_grouped_transposed_convolutions_are_not_folded() -> None:
    network, images = randomise(Transposed()), torch.randn(2, 3, 8, 8)
    wanted = network(images)
    folded = open_frame(network, (3, 8, 8)).fold(network)
    torch.testing.assert_close(folded(images), wanted)


class Recurrent(nn.Module):
    """The parent makes the first state, of a size that it keeps itself."""

    def __init__(self, kind: type[nn.Module], **options: bool) -> None:
        super().__init__()
        self.hidden, both = 8, 2 if options else 1
        self.encoder = nn.Linear(5, 6)
        self.core = kind(6, 8, batch_first=True, **options)
        self.states = both
        self.last = nn.Linear(8 * both, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(self.states, x.shape[0], self.hidden)
        lstm = isinstance(self.core, nn.LSTM)
        y, _ = self.core(torch.relu(self.encoder(x)), (state, state) if lstm else state)
        return self.last(y[:, -1])


@pytest.mark.parametrize(
    ("kind", "options"),
    [(nn.GRU, {}), (nn.RNN, {}), (nn.LSTM, {"bidirectional": True})],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_size_that_a_layer_and_its_parent_hold_follows_in_both(
    kind: type[nn.Module], options: dict[str, bool], tmp_path: Path
) -> None:
    network = Recurrent(kind, **options)
    check(network, (4, 5), tmp_path)
    frame = open_frame(network, (4, 5))
    assert not [clique.held for clique in frame.trace.cliques if clique.held]
    followers = {(p.module, p.attribute) for p in frame.trace.patches}
    assert {("", "hidden"), ("core", "hidden_size")} <= followers


class Scaled(nn.Module):
    """Numbers without dimensions: one of the network, one beside the weights that it scales."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 6))
            self.alpha = nn.Parameter(torch.tensor(0.7))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight) * self.alpha

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = self.Layer(), nn.Linear(8, 3)
        self.logit_scale = nn.Parameter(torch.tensor(1.2))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x))) * self.logit_scale.exp()


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_without_dimensions_keep_their_values(kind: str, tmp_path: Path) -> None:
    network = Scaled()
    check(network, (6,), tmp_path, left=0.6)
    frame = open_frame(network, (6,))
    manifold, _ = build_manifold(
        *(network, Arch("own:Scaled"), (1, 1, 6), "all", False),
        *(inr_settings(kind), NoiseSection()),
        frame=frame,
    )
    small = manifold.sample(0.5)
    assert small.first.weight.shape == (4, 6)
    assert torch.equal(small.first.alpha, network.first.alpha)
    assert torch.equal(small.logit_scale, network.logit_scale)


class Cut(nn.Module):
    """Cuts channels at a number that is written out, as many as the checkpoint has."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x))[:, :8])


def test_a_cut_that_is_written_out_is_told_where_the_network_would_be_wider() -> None:
    frame = open_frame(Cut(), (6,))
    manifold, _ = build_manifold(
        *(Cut(), Arch("own:Cut"), (1, 1, 6), "all", False),
        *(inr_settings("selected"), NoiseSection()),
        frame=frame,
    )
    assert manifold.sample(0.5).last.in_features == 4
    assert manifold.sample(1.0).last.in_features == 8
    for refused in (
        lambda: manifold.sample(1.5),
        lambda: manifold.skeleton(manifold.frame.sizes(1.5)),
        lambda: cost_of(manifold, manifold.frame.sizes(1.5)),
    ):
        with pytest.raises(NeumetaError, match=r"not run wider than its checkpoint: .*x\[:, :64\]"):
            refused()
    assert open_frame(Sparse(), (2,)).check_wider({}) is None


class Counting(nn.Module):
    """Takes the batch's size as a number of Python's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).mean((2, 3)).reshape(len(x), -1))


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".pt2", ".onnx"])
def test_a_batch_that_became_a_number_is_told_and_can_be_chosen(
    ending: str, tmp_path: Path
) -> None:
    write, network = PROGRAMS[ending].write, Counting().eval()
    with pytest.raises(NeumetaError, match=r"as len\(x\) does .*--batch N"):
        write(tmp_path / f"any{ending}", network, (1, 8, 8), {}, None)
    path = write(tmp_path / f"five{ending}", network, (1, 8, 8), {}, 5)
    if ending == ".pt2":
        images = torch.randn(5, 1, 8, 8)
        torch.testing.assert_close(torch.export.load(path).module()(images), network(images))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
@pytest.mark.parametrize("layer", [nn.AdaptiveMaxPool2d((3, 5)), nn.FractionalMaxPool2d(2, 3)])
def test_the_first_cause_is_told_where_onnx_has_no_such_layer(
    layer: nn.Module, tmp_path: Path
) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), layer).eval()
    with pytest.raises(NeumetaError) as refused:
        PROGRAMS[".onnx"].write(tmp_path / "x.onnx", network, (1, 12, 12), {}, None)
    assert "\x1b" not in str(refused.value)
    assert "max_pool2d" in str(refused.value)
    assert "use .pt or .safetensors" in str(refused.value)
