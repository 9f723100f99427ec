"""Which networks a step draws, and what each of them counts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from manifolds import tiny_manifold
from random_networks import input_size, network
from tiny_fits import prepared, recipe_for
from torch import Tensor, nn

from neumeta_cli.checkpoint import Arch
from neumeta_cli.distill import Fitter
from neumeta_cli.distill.draws import Drawn, WidthPool
from neumeta_cli.distill.settings import FitSection
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import build_manifold, inr_settings
from neumeta_cli.manifold.settings import NoiseSection
from neumeta_cli.resize import Frame, open_frame


def test_cliques_draw_widths_of_their_own_and_anchors_come_along(build, image_folder) -> None:
    fit = {"gamma": [0.0, 0.5], "mixed": 0.5, "mixed_gamma": [0.5, 0.75], "anchors": [0.5]}
    recipe = recipe_for(image_folder, scope="all", fit=fit, model={"arch": "cifar_resnet20"})
    manifold, _, _ = prepared(build, recipe)
    pools, choices = WidthPool(manifold, recipe.fit, recipe.seed), torch.Generator().manual_seed(0)
    full, half = pools.full, manifold.frame.sizes(0.5)
    kinds = {"alike": 0, "mixed": 0}
    for _ in range(100):
        pool = pools.draw(choices)
        drawn, *anchors = [sizes for sizes, *_ in pool]
        assert anchors == ([half] if drawn != half else [])
        widths = [drawn[name] / full[name] for name in full]
        wide = [n for n, w in zip(full, widths, strict=True) if full[n] == 64 and w > 0.51]
        if max(widths) - min(widths) > 0.1:
            kinds["mixed"] += 1
            assert not wide
            assert min(widths) >= 0.25
        else:
            kinds["alike"] += 1
            assert min(widths) >= 0.5
    assert min(kinds.values()) > 25


@pytest.mark.slow
def test_cliques_that_a_forward_pass_needs_alike_draw_one_width(build) -> None:
    """Heads' queries, keys and values are cut from one tensor."""
    model, arch = build("timm/vit_tiny_patch16_224")
    size = arch.default_input_size()
    inr, noise = inr_settings("selected"), NoiseSection(samples=1)
    manifold, _ = build_manifold(model, arch, size, "all", True, inr, noise)
    pool = WidthPool(manifold, FitSection(mixed=1.0, anchors=[]))
    assert max(map(len, pool.groups)) > 1
    assert len(pool.groups) > 10  # the MLPs' hidden channels are free
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        ((sizes, *_),) = pool.draw(generator)
        manifold.skeleton(sizes)(torch.empty(1, *size, device="meta"))


@pytest.mark.slow
def test_a_network_that_needs_one_width_is_told_how(build, monkeypatch) -> None:
    model, arch = build("timm/vit_tiny_patch16_224")
    inr, noise = inr_settings("selected"), NoiseSection(samples=1)
    size = arch.default_input_size()
    manifold, _ = build_manifold(model, arch, size, "all", True, inr, noise)
    monkeypatch.setattr(Frame, "linked", property(lambda frame: [[n] for n in frame.scope]))
    with pytest.raises(NeumetaError, match=r"set fit\.mixed=0"):
        WidthPool(manifold, FitSection(mixed=1.0, anchors=[]))


@pytest.mark.parametrize("power", [1.0, 0.2])
def test_no_network_has_all_its_cliques_beyond_the_trained_range(build, power: float) -> None:
    model, arch = build("lenet")
    size = arch.default_input_size()
    inr, noise = inr_settings("selected"), NoiseSection(samples=1)
    manifold, _ = build_manifold(model, arch, size, "all", True, inr, noise)
    fit = FitSection(mixed=1.0, anchors=[], mixed_gamma=(0.0, 0.8), mixed_power=power)
    pool, generator = WidthPool(manifold, fit), torch.Generator().manual_seed(0)
    drawn = [pool.draw(generator)[0][0] for _ in range(300)]
    half = manifold.frame.sizes(0.5)
    narrow = [sum(sizes[n] < half[n] for n in half) for sizes in drawn]
    assert max(narrow) == len(half) - 1
    shares = [size / pool.full[n] for sizes in drawn for n, size in sizes.items()]
    mean = 1 - sum(shares) / len(shares)
    assert (mean > 0.5) == (power < 1)  # a power below 1 favours narrow


def test_changes_at_knots_learn_at_rates_of_their_own(build, image_folder) -> None:
    """Adam's first step is the learning rate, whatever the gradient."""
    fit = {"mixed": 1.0, "mixed_gamma": [0.7, 0.8]}
    inr = {"kind": "selected", "knot_rates": [1.0, 0.5, 3.0]}
    recipe = recipe_for(image_folder, scope="all", inr=inr, fit=fit)
    fitter = Fitter(*prepared(build, recipe), recipe)
    assert fitter.stepper.take(torch.arange(40)) is not None
    changes = [grid.changes for grid in fitter.manifold.inr.grids.values()]
    steps = [max(c.detach().abs().max().item() for c in at) for at in zip(*changes, strict=True)]
    assert steps == pytest.approx([r * recipe.fit.learning_rate for r in (1, 0.5, 3)], rel=0.01)


@pytest.mark.slow
def test_a_drawn_network_counts_as_much_as_it_is_told(build, image_folder) -> None:
    """Its loss is the same at every weight; the step's loss is their weighted mean."""
    losses = {}
    for weight in (1.0, 1e-4, 1e4):
        fit = {"anchors": [0.5], "gamma": [0.25, 0.25], "drawn_weight": weight}
        recipe = recipe_for(image_folder, scope="all", inr={"kind": "selected"}, fit=fit)
        fitter = Fitter(*prepared(build, recipe), recipe)
        losses[weight] = fitter.stepper.take(torch.arange(40))["loss"]
    anchor, drawn = losses[1e-4], losses[1e4]
    assert anchor != pytest.approx(drawn, rel=1e-3)
    assert losses[1.0] == pytest.approx((anchor + drawn) / 2, rel=1e-3)


def test_anchors_are_trained_in_their_share_of_the_steps(build, image_folder) -> None:
    fit = {"anchors": [0.25, 0.5], "anchor_shares": [0.2, 1.0], "mixed": 1.0, "drawn_weight": 0.5}
    recipe = recipe_for(image_folder, scope="all", fit=fit)
    fitter = Fitter(*prepared(build, recipe), recipe)
    pool, frame = fitter.stepper.widths, fitter.manifold.frame
    quarter, half = frame.sizes(0.75), frame.sizes(0.5)
    steps = [pool.draw(fitter.stepper.choices)[1:] for _ in range(2000)]
    assert all(step[-1] == Drawn(half, 1.0) for step in steps)
    with_both = [step for step in steps if step[0] == Drawn(quarter, 1.0)]
    assert len(with_both) == pytest.approx(400, rel=0.2)
    assert all(len(step) == 1 + (step in with_both) for step in steps)


@settings(max_examples=20, deadline=None)
@given(spread=st.floats(0.01, 0.3), seed=st.integers(0, 1000))
def test_anchors_are_spread_in_half_of_the_steps(spread: float, seed: int) -> None:
    manifold = tiny_manifold()
    fit = FitSection(anchors=[0.25, 0.5], anchor_spread=spread, mixed=0.0)
    pool, generator = WidthPool(manifold, fit), torch.Generator().manual_seed(seed)
    steps = [pool.spread_anchors(generator) for _ in range(40)]
    frame = manifold.frame
    widest = [frame.sizes(1 - max(0.0, gamma - spread)) for gamma in fit.anchors]
    narrowest = [frame.sizes(1 - min(0.5, gamma + spread)) for gamma in fit.anchors]
    for step in steps:
        for sizes, most, least in zip(step, widest, narrowest, strict=True):
            assert all(least[name] <= size <= most[name] for name, size in sizes.items())
    pairs = [pair for step in steps for pair in zip(step, pool.anchors, strict=True)]
    exact = sum(sizes == anchor for sizes, anchor in pairs)
    assert exact >= 20  # of 80; rounding takes some more of them back
    assert sum(pool.largest.values()) >= max(
        sum(sizes.values()) for step in steps for sizes in step
    )


def test_shares_are_as_many_as_anchors(image_folder) -> None:
    with pytest.raises(NeumetaError, match=r"fit\.anchor_shares: one for each of the 1 fit\.anc"):
        recipe_for(image_folder, fit={"anchors": [0.5], "anchor_shares": [1.0, 0.5]})


def test_networks_of_differing_widths_come_from_a_pool(build, image_folder) -> None:
    fit = FitSection(mixed=1.0, gamma=(0.0, 0.8), mixed_gamma=(0.0, 0.8))
    recipe = recipe_for(image_folder, scope="all")
    manifold, *_ = prepared(build, recipe)
    drawn = []
    for seed in (0, 1):
        pool, generator = WidthPool(manifold, fit, seed), torch.Generator().manual_seed(0)
        sizes = [tuple(pool.draw(generator)[0][0].items()) for _ in range(1500)]
        drawn.append(set(sizes))
        assert 190 < len(drawn[-1]) <= 200
    assert not drawn[0] & drawn[1]


class Mixing(nn.Module):
    """Attention among pixels: torch's own, of one head or several, or with a size left to infer."""

    def __init__(self, heads: int, own: bool, channels: int = 24) -> None:
        super().__init__()
        self.heads, self.channels = heads, channels
        self.enter, self.last = nn.Conv2d(3, channels, 4, 4), nn.Linear(channels, 5)
        if own:
            self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        else:
            self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).flatten(2).transpose(1, 2)
        return self.last((x + self.attend(x)).mean(1))

    def attend(self, x: Tensor) -> Tensor:
        if hasattr(self, "attention"):
            return self.attention(x, x, x, need_weights=False)[0]
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, n, -1))


class Shuffled(nn.Module):
    """Channels that change places between groups: a grid, of which no side is a head."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.conv = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, 1, 1, groups=4)
        self.last = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.enter(x))
        b, c, h, w = y.shape
        return self.last(y.view(b, 4, c // 4, h, w).transpose(1, 2).reshape(b, c, h, w))


@pytest.mark.parametrize("heads", ["width", "count", "both"])
@pytest.mark.parametrize(
    "model",
    [
        *(Mixing(h, own) for own in (True, False) for h in (1, 2, 8)),
        *(Mixing(h, own, 8) for own in (True, False) for h in (1, 2)),
        *(Mixing(1, False, n) for n in (4, 5, 6)),
        Shuffled(),
    ],
    ids=lambda m: " ".join(str(v) for v in vars(m).values() if type(v) in (bool, int)),
)
def test_cliques_that_a_forward_pass_needs_alike_stay_so(model: nn.Module, heads: str) -> None:
    frame = open_frame(model, (3, 16, 16), heads).with_scope("all")
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        widths = (0.1 + 0.9 * torch.rand(len(frame.linked), generator=generator)).tolist()
        of = {n: w for group, w in zip(frame.linked, widths, strict=True) for n in group}
        frame.skeleton(frame.sizes(of))(torch.empty(2, 3, 16, 16, device="meta"))
    assert not any(c.held and not c.order_only for c in frame.trace.cliques)


@pytest.mark.parametrize("heads", ["width", "count", "both"])
@pytest.mark.parametrize("seed", [63, 76, 184])
def test_sizes_that_are_alike_at_half_their_width_do_not_hide_what_has_to_be(
    seed: int, heads: str
) -> None:
    """Group norms over branches, and attention of few channels, of the benchmark's networks."""
    size = input_size(seed)
    frame = open_frame(network(seed), size, heads).with_scope("all")
    for width in torch.linspace(0.2, 1, 8).tolist():
        frame.skeleton(frame.sizes(width))(torch.empty(2, *size, device="meta"))
    assert any(not c.held for c in frame.trace.cliques)


class Choosy(nn.Module):
    """Refuses a second layer that is much wider than the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1)
        self.last = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.second(x)
        if y.shape[1] > 2 * x.shape[1]:
            raise RuntimeError("too wide")
        return self.last(y)


def test_sizes_that_a_forward_pass_refuses_are_not_drawn() -> None:
    inr, noise = inr_settings("selected"), NoiseSection(samples=1)
    manifold, _ = build_manifold(
        Choosy(), Arch("test_draws:Choosy"), (3, 4, 4), "all", True, inr, noise
    )
    pool = WidthPool(manifold, FitSection(mixed=1.0, mixed_gamma=(0.0, 0.9), anchors=[]), seed=3)
    drawn = [tuple(pool.mixed(place).values()) for place in range(100)]
    assert all(second <= 2 * first for first, second in drawn)
    assert sum(first == second for first, second in drawn) > 10  # in place of those
    assert len(set(drawn)) > 40
