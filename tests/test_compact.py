"""The compact store of manifolds: exact, small, and refused where it is damaged."""

import copy
import json
import lzma
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from manifolds import LENET, RESNET, tiny_manifold
from safetensors.torch import load_file, save_file
from torch import Tensor

from neumeta_cli.checkpoint import COMPACT_VERSION, FORMAT_VERSION, read_weights
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export import describe
from neumeta_cli.manifold import Manifold, inr_settings, load_manifold, save_manifold
from neumeta_cli.manifold.inr.base import entry
from neumeta_cli.manifold.stream import FILTERS, decode, encode

SMALL = {"hidden": 32, "layers": 2, "frequencies": 4}
KINDS = {
    "mlp": inr_settings("mlp", **SMALL),
    "factorised": inr_settings("factorised", **SMALL),
    "selected": inr_settings("selected"),
    "slices": inr_settings("selected", knots=[]),
    "integral": inr_settings("integral"),
}


def learnt(kind: str, name: str = LENET, scope: object = "all") -> Manifold:
    """As after a fit: no parameter is zero."""
    manifold = tiny_manifold(name, inr=KINDS[kind], scope=scope)
    generator = torch.Generator().manual_seed(1)
    for parameter in manifold.inr.parameters():
        parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    return manifold


@pytest.mark.parametrize("kind", KINDS)
def test_a_compact_file_gives_what_is_in_memory_and_is_smaller(kind: str, tmp_path: Path) -> None:
    sizes = {}
    for store in ("int8", "compact"):
        manifold, path = learnt(kind).store_as(store), tmp_path / f"{store}.safetensors"
        loaded = load_manifold(save_manifold(path, manifold))
        held, given = manifold.state_dict(), loaded.state_dict()
        assert held.keys() == given.keys()
        assert all(torch.equal(held[n], t) and held[n].dtype == t.dtype for n, t in given.items())
        again = read_weights(save_manifold(tmp_path / "again.safetensors", loaded))
        assert again.metadata == read_weights(path).metadata  # and a checksum of all tensors in it
        sizes[store] = path.stat().st_size
    x = torch.randn(2, *manifold.input_size)
    assert torch.equal(loaded.sample(0.6, samples=0)(x), manifold.sample(0.6, samples=0)(x))
    assert sizes["compact"] < 0.9 * sizes["int8"]


def test_only_compact_files_are_of_the_version_that_an_older_neumeta_refuses(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.safetensors"
    for store, version in (("int8", FORMAT_VERSION), ("compact", COMPACT_VERSION)):
        save_manifold(path, learnt("selected").store_as(store))
        assert read_weights(path).metadata["format_version"] == version
    assert FORMAT_VERSION < COMPACT_VERSION


@pytest.mark.parametrize(
    ("store", "name"),
    [("float32", LENET), ("int8", LENET), ("compact", LENET), ("compact", RESNET)],
)
def test_the_bytes_that_info_tells_add_up_to_the_file(
    store: str, name: str, tmp_path: Path
) -> None:
    path = save_manifold(tmp_path / "x.safetensors", learnt("selected", name).store_as(store))
    known = describe(path)
    parts = known["bytes_by_part"]
    assert sum(parts.values()) == known["bytes"] == path.stat().st_size
    assert ("calibration images" in parts) == (name == RESNET)
    assert parts["INR: changes to γ 0.25"] > parts["INR: changes to γ 0.75"] > 0
    assert min(parts.values()) > 0
    assert known["cliques"][0]["channels"] == known["sizes"][known["cliques"][0]["name"]]


def test_what_is_out_of_scope_stays_within_rounding(tmp_path: Path) -> None:
    before, after = (tiny_manifold(RESNET, scope=["layer3.2.conv1"]) for _ in range(2))
    after.store_as("compact")
    path = save_manifold(tmp_path / "x.safetensors", after)
    assert describe(path)["bytes_by_part"]["tensors out of scope"] < 300_000  # of 0.24 M weights
    for name, tensor in after.fixed.items():
        error = (tensor.double() - before.fixed[name].double()).abs()
        most = before.fixed[name].double().abs().amax() if tensor.numel() else 0.0
        assert tensor.dtype == before.fixed[name].dtype
        assert float(error.max()) <= float(most) * (0.51 / 127 if tensor.dim() > 1 else 2**-11)
    x = torch.randn(4, *before.input_size)
    assert relative_error(after.sample(1.0, samples=0)(x), before.sample(1.0, samples=0)(x)) < 0.1


def test_rounding_at_a_knot_is_that_of_its_own_change(tmp_path: Path) -> None:
    """Without carrying on it would be the sum of those before it, and larger."""
    exact = learnt("selected", RESNET)
    name = "layer3.1.conv1.weight"
    errors: dict[bool, list[float]] = {}
    for carries in (True, False):
        stored = copy.deepcopy(exact)
        if not carries:
            stored.inr.carry = lambda state, _: dict(state)
        state = stored.store_as("compact").inr.state_dict()
        errors[carries] = []
        for number, width in enumerate((0.75, 0.5, 0.25)):
            sizes, part = exact.frame.sizes(width), f"{entry(name)}.changes.{number}"
            change = state[f"grids.{part}"]
            step = change.abs().amax() / stored.inr.levels(part, change)
            made, wanted = (m.generate(sizes)[name] for m in (stored, exact))
            error = (made - wanted).abs()
            errors[carries].append(float(error.square().mean()))
            assert not carries or error.max() <= 0.51 * step
    assert all(less < more for less, more in zip(errors[True], errors[False], strict=True))
    assert errors[True][-1] < 0.5 * errors[False][-1]


def damage(change: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    def apply(whole: Path, path: Path) -> None:
        metadata, tensors = read_weights(whole).metadata, load_file(whole)
        del metadata["digest"]
        content = change(tensors["stream"].numpy().tobytes())
        tensors["stream"] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        save_file(tensors, path, {"neumeta": json.dumps(metadata)})

    return apply


def rewrite(change: Callable[[dict, dict[str, Tensor]], None]) -> Callable[[Path, Path], None]:
    def apply(whole: Path, path: Path) -> None:
        metadata, tensors = read_weights(whole).metadata, load_file(whole)
        del metadata["digest"]
        change(metadata, tensors)
        save_file(tensors, path, {"neumeta": json.dumps(metadata)})

    return apply


HOSTILE = {
    "cut": (damage(lambda c: c[: len(c) // 2]), "is a damaged manifold: its stream"),
    "empty": (damage(lambda _: b"\0"), "not of the size of its INR"),
    "longer": (damage(lambda c: c + b"\0"), "goes on behind its end"),
    "overwritten": (damage(lambda c: b"\xff" * 99 + c[99:]), "its stream of weights is damaged"),
    "bomb": (
        damage(lambda _: lzma.compress(bytes(1 << 24), lzma.FORMAT_RAW, filters=FILTERS)),
        "not of the size of its INR",
    ),
    "huge": (
        rewrite(lambda m, _: m["inr"].update(hidden=30_000)),
        "would take [0-9]{1,3},[0-9,]{11} bytes",
    ),
    "other type": (
        rewrite(lambda _, t: t.update(stream=t["stream"].float())),
        "its stream of weights is no bytes",
    ),
    "without": (
        rewrite(lambda _, t: t.update(other=t.pop("stream"))),
        "it has no stream of weights",
    ),
    "other store": (rewrite(lambda m, _: m["inr"].update(store="int8")), "damaged manifold"),
}


@pytest.fixture(scope="module")
def compact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compact") / "x.safetensors"
    return save_manifold(path, learnt("factorised").store_as("compact"))


@pytest.mark.parametrize("which", HOSTILE)
def test_a_damaged_or_hostile_stream_is_refused_in_one_line(
    compact: Path, which: str, tmp_path: Path
) -> None:
    make, reason = HOSTILE[which]
    path = tmp_path / "x.safetensors"
    make(compact, path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(NeumetaError, match=reason) as refused:
        load_manifold(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 1 << 17  # KiB


def test_a_changed_byte_is_found_by_the_checksum(compact: Path, tmp_path: Path) -> None:
    content = bytearray(compact.read_bytes())
    content[-1000] ^= 4
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(NeumetaError, match="its content does not match its checksum"):
        load_manifold(path)


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.int64, torch.bool]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)
        ),
        min_size=1,
        max_size=8,
    )
)
def test_a_stream_gives_every_tensor_back(drawn: list) -> None:
    tensors = {
        f"{part}.{number}": (100 * torch.randn(shape)).to(dtype)
        for number, (part, dtype, shape) in enumerate(drawn)
    }
    stream = encode(tensors, lambda name: name[0])
    like = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
    given_back, taken = decode(stream, like, lambda name: name[0])
    assert sum(taken.values()) == len(stream)
    assert given_back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert given_back[name].dtype == tensor.dtype
        assert torch.equal(given_back[name], tensor)
