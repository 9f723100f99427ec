"""Which dimensions are channels: transposed convolutions, tables of vectors, attention heads."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neumeta_cli.checkpoint import Arch, resolve
from neumeta_cli.evaluate import count_channels
from neumeta_cli.export.choose.wish import Choice, Wish
from neumeta_cli.manifold import (
    Manifold,
    build_manifold,
    inr_settings,
    load_manifold,
    save_manifold,
)
from neumeta_cli.manifold.inr import own_fields
from neumeta_cli.manifold.settings import NoiseSection
from neumeta_cli.resize import (
    Layout,
    open_frame,
    rank_channels,
    select_channels,
    weight_layouts,
)
from neumeta_cli.trace import trace_model

VIT = Arch("timm/vit_tiny_patch16_224", {"img_size": 32, "patch_size": 16, "depth": 2})


def made(model: nn.Module, arch: Arch, size: tuple[int, int, int], **options) -> Manifold:
    inr = options.pop("inr", inr_settings("selected"))
    noise = NoiseSection(channels=0.0, sizes=0.0, samples=1)
    scope, heads = options.pop("scope", "all"), options.pop("heads", "width")
    return build_manifold(model, arch, size, scope, False, inr, noise, heads)[0]


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    torch.manual_seed(0)
    model = VIT.build("cpu").requires_grad_(False)
    nn.init.normal_(model.pos_embed)
    nn.init.normal_(model.cls_token)
    return model


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
    st.data(),
)
@settings(deadline=None, max_examples=40)
def test_turning_back_undoes_turning(shape: list[int], data: st.DataObject) -> None:
    dims = data.draw(st.permutations(range(len(shape))))
    into = dims[1] if len(dims) > 1 and data.draw(st.booleans()) else None
    rest = tuple(dims[1:] if into is None else dims[2:])
    layout = Layout(dims[0], into, rest)
    tensor = torch.rand(shape)
    turned = layout.turn(tensor)
    assert tuple(turned.shape) == layout.shape(shape)
    assert turned.shape[0] == shape[layout.out]
    assert torch.equal(layout.turn_back(turned), tensor)


def test_layers_say_which_dimensions_are_channels(vit: nn.Module) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(3, 8, 3, 2, 1)
            self.up = nn.ConvTranspose2d(8, 5, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(self.down(x).relu())

    mixed = Mixed()
    layouts = weight_layouts(mixed, trace_model(mixed, (3, 8, 8)))
    assert layouts["down.weight"] == Layout(0, 1, (2, 3))
    assert layouts["up.weight"] == Layout(1, 0, (2, 3))
    assert layouts["up.bias"] == Layout(0, None)
    layouts = weight_layouts(vit, trace_model(vit, (3, 32, 32)))
    assert layouts["pos_embed"] == Layout(2, None, (0, 1))
    assert layouts["blocks.0.attn.qkv.weight"] == Layout(0, 1)


@pytest.mark.parametrize("kind", ["selected", "factorised", "integral"])
def test_full_width_is_the_network_itself(kind: str, vit: nn.Module) -> None:
    autoencoder = resolve("vae_mnist")
    torch.manual_seed(0)
    for model, arch, size in (
        (vit, VIT, (3, 32, 32)),
        (autoencoder.build("cpu"), autoencoder, (1, 28, 28)),
    ):
        small = {"kind": kind, "hidden": 8, "layers": 1, "frequencies": 2}
        inr = inr_settings(**own_fields(small))
        manifold = made(model, arch, size, inr=inr)
        x = torch.rand(2, *size)
        wanted, found = model(x), manifold.sample(1.0)(x)
        for a, b in zip(_several(wanted), _several(found), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def _several(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def test_position_embeddings_keep_the_channels_that_the_stream_keeps(vit: nn.Module) -> None:
    """Before any fit: the same channels of every member, so the rest computes what it did."""
    manifold = made(vit, VIT, (3, 32, 32), scope=["patch_embed.proj"])
    small = manifold.sample(0.5)
    assert small.pos_embed.shape == (1, 5, 96)
    columns = (vit.pos_embed[0, 0][:, None] == small.pos_embed[0, 0]).nonzero()[:, 0]
    assert len(columns) == 96
    assert torch.equal(small.pos_embed, vit.pos_embed[:, :, columns])
    assert torch.equal(small.cls_token, vit.cls_token[:, :, columns])
    assert torch.equal(small.patch_embed.proj.weight, vit.patch_embed.proj.weight[columns])


def test_fewer_heads_compute_what_the_others_did_without_them(
    vit: nn.Module, tmp_path: Path
) -> None:
    manifold = made(vit, VIT, (3, 32, 32), scope=["blocks.*@order"], heads="count")
    assert manifold.frame.full == {f"blocks.{n}.attn.qkv@order": 3 for n in range(2)}
    small = manifold.sample(2 / 3)
    x = torch.rand(2, 3, 32, 32)
    without = copy.deepcopy(vit)
    for whole, few in zip(without.blocks, small.blocks, strict=True):
        assert (few.attn.num_heads, few.attn.head_dim) == (2, 64)
        columns = whole.attn.proj.weight.T.split(64)
        kept = [any(torch.equal(c, f) for f in few.attn.proj.weight.T.split(64)) for c in columns]
        assert sum(kept) == 2
        whole.attn.proj.weight[:, [64 * kept.index(False) + i for i in range(64)]] = 0
    torch.testing.assert_close(small(x), without(x), rtol=1e-4, atol=1e-5)
    manifold.round_as_stored()
    again = load_manifold(save_manifold(tmp_path / "m.safetensors", manifold))
    assert torch.equal(again.sample(2 / 3)(x), manifold.sample(2 / 3)(x))


def test_heads_and_the_channels_inside_them_have_widths_of_their_own(
    vit: nn.Module, tmp_path: Path
) -> None:
    """Narrower heads of which one is left out: what narrower heads compute without it."""
    scope = ["blocks.*.attn.*"]
    inside = [f"blocks.{n}.attn.qkv{end}" for n in range(2) for end in ("", "#2")]
    narrow = made(vit, VIT, (3, 32, 32), scope=inside, heads="width")
    both = made(vit, VIT, (3, 32, 32), scope=scope, heads="both")
    assert sorted(both.frame.full.values()) == [3, 3, 64, 64, 64, 64]
    heads = [name for name in both.frame.full if name.endswith("@order")]
    wish = Wish(named=(("blocks.*.attn.qkv", 0.375), ("blocks.*@order", 0.67)))
    sizes = Choice(both, wish).sizes(1.0)
    assert sizes == {name: 2 if name in heads else 24 for name in both.frame.full}
    small = both.sample(sizes=sizes)
    without = narrow.sample(0.375)
    for whole, few in zip(without.blocks, small.blocks, strict=True):
        assert (few.attn.num_heads, few.attn.head_dim) == (2, 24)
        assert few.attn.qkv.weight.shape == (3 * 2 * 24, 192)
        columns = whole.attn.proj.weight.T.split(24)
        kept = [any(torch.equal(c, f) for f in few.attn.proj.weight.T.split(24)) for c in columns]
        assert sum(kept) == 2
        whole.attn.proj.weight[:, [24 * kept.index(False) + i for i in range(24)]] = 0
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(small(x), without(x), rtol=1e-4, atol=1e-5)
    both.round_as_stored()
    again = load_manifold(save_manifold(tmp_path / "m.safetensors", both))
    assert torch.equal(again.sample(0.5)(x), both.sample(0.5)(x))


@pytest.mark.parametrize("heads", ["width", "count", "both"])
def test_as_many_heads_as_channels_in_each_are_told_apart_by_their_names(heads: str) -> None:
    """As in the last stage of a Swin-B: 32 heads of 32, of which one attribute follows each."""
    arch = replace(VIT, kwargs={**VIT.kwargs, "embed_dim": 64, "num_heads": 8})
    frame = open_frame(arch.build("cpu"), (3, 32, 32), heads).with_scope("all")
    sizes = {
        n: 6 if n.endswith("@order") else 5 if "qkv" in n else s for n, s in frame.full.items()
    }
    attention = frame.skeleton(sizes).blocks[0].attn
    inside, count = (5 if heads != "count" else 8), (6 if heads != "width" else 8)
    assert (attention.num_heads, attention.head_dim) == (count, inside)


class Transposed(nn.Module):
    """Attention whose channels lie outermost: channels × heads."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.out, self.heads = nn.Linear(6, 24), nn.Linear(24, 6), 3

    def forward(self, x: Tensor) -> Tensor:
        parts = self.value(x).unflatten(-1, (-1, self.heads))
        mixed = torch.einsum("bndh,bmdh->bnmh", parts, parts).tanh()
        return self.out(torch.einsum("bnmh,bmdh->bndh", mixed, parts).flatten(-2))


def test_channels_outside_of_heads_go_in_all_heads_together() -> None:
    model = Transposed().eval().requires_grad_(False)
    example = torch.randn(2, 5, 6)
    frame = open_frame(model, (example,)).with_scope("all")
    assert [(c.channels, c.copies) for c in frame.cliques] == [(8, 3)]
    kept = rank_channels(frame.cliques[0], model.state_dict(), list(frame.layouts)) < 4
    small = frame.build(
        frame.sizes(0.5),
        select_channels(model.state_dict(), frame.trace, {"value": np.flatnonzero(kept)}),
    )
    gone = [d for d in range(8) if not kept.reshape(3, 8)[0, d]]
    for tensor in (model.value.weight, model.value.bias):
        tensor.view(8, 3, -1)[gone] = 0
    torch.testing.assert_close(small(example), model(example))


@pytest.mark.parametrize(
    ("heads", "told"),
    [
        ("count", {"blocks.0.attn.qkv@order": ["3×64", "2×64", "1×64"]}),
        ("width", {"blocks.0.attn.qkv": ["3×64", "3×32", "3×16"]}),
        ("both", {"blocks.0.attn.qkv": ["3×64", "2×32", "1×16"]}),  # the heads' own row too
    ],
)
def test_tables_show_heads_as_heads(vit: nn.Module, heads: str, told: dict) -> None:
    frame = open_frame(vit, (3, 32, 32), heads).with_scope("all")
    counted = count_channels(frame, [0.5, 0.75])
    assert counted.gammas == [0.0, 0.5, 0.75]
    rows = {row.name: row.channels for row in counted.rows}
    assert rows.pop("patch_embed.proj") == ["192", "96", "48"]
    assert rows.pop("blocks.0.mlp.fc1") == ["768", "384", "192"]
    assert rows == told


def test_grown_tables_and_transposed_convolutions_keep_their_scale(vit: nn.Module) -> None:
    """Wider: inputs are divided among more channels, vectors of a table are not."""
    arch = resolve("vae_mnist")
    model = arch.build("cpu")
    nn.init.constant_(model.decoder[1].weight, 0.5)
    manifold = made(model, arch, (1, 28, 28), scope=["encoder.*", "decoder.*"])
    wide = manifold.sample(2.0)
    assert wide.decoder[1].weight.shape == (64, 1, 4, 4)
    torch.testing.assert_close(wide.decoder[1].weight, torch.full((64, 1, 4, 4), 0.25))
    even = copy.deepcopy(vit)
    nn.init.constant_(even.pos_embed, 0.5)
    wide = made(even, VIT, (3, 32, 32), scope=["patch_embed.proj"]).sample(2.0)
    torch.testing.assert_close(wide.pos_embed, torch.full((1, 5, 384), 0.5))
