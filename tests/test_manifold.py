"""Coordinates, the INR, sampling, the files, and what export and load give back."""

import math
from pathlib import Path

import pytest
import torch
from conftest import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import Program
from torch import nn

from neumeta_cli.checkpoint import read_weights
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate.prune import prune_l1
from neumeta_cli.export import export_network, load
from neumeta_cli.manifold import (
    InrSettings,
    Manifold,
    Noise,
    build_manifold,
    inr_settings,
    load_manifold,
    save_manifold,
)
from neumeta_cli.manifold.calibration import CalibrationSet
from neumeta_cli.manifold.inr.coordinates import Space, Target, TensorSpec
from neumeta_cli.manifold.inr.network import embed
from neumeta_cli.manifold.settings import NoiseSection
from neumeta_cli.manifold.storage import pack, unpack
from neumeta_cli.resize import build_resized, resize_model, select_channels
from neumeta_cli.trace import trace_model

MLP = inr_settings("mlp", hidden=16, layers=3, frequencies=4)
FACTORISED = inr_settings("factorised", hidden=16, layers=2, frequencies=4, size_frequencies=1)
SELECTED = inr_settings("selected", knots=[0.3, 0.6])
INTEGRAL = inr_settings("integral")
NOISE = NoiseSection(channels=0.3, sizes=0.5, samples=3)


def manifold_of(build, name="cifar_resnet20", inr=FACTORISED, scope="all", fold=True) -> Manifold:
    model, arch = build(name)
    size = arch.default_input_size()
    return build_manifold(model, arch, size, scope, fold, inr, NOISE)[0].requires_grad_(False)


def test_coordinates_are_those_of_the_paper() -> None:
    spec = TensorSpec("conv.weight", 2, (8, 4, 3, 3), None)
    points = Space(5, 16).coordinates(Target(spec, 6, 3, 3), None, torch.device("cpu"))
    assert points.shape == (18, 6)
    row = points[4 * 3 + 2]  # c_out 4, c_in 2
    wanted = torch.tensor([2 / 5, 2 / 3, 4 / 6, 5 / 16, 3 / 16, 6 / 16])
    torch.testing.assert_close(row, wanted)


@given(st.floats(0, 2), st.floats(0, 2))
@settings(max_examples=30, deadline=None)
def test_noise_stays_within_its_bounds(channels: float, sizes: float) -> None:
    spec = TensorSpec("fc.weight", 0, (8, 4), None)
    space, target = Space(1, 1), Target(spec, 8, 4, 4)
    clean = space.coordinates(target, None, torch.device("cpu"))
    noise = Noise(channels, sizes, torch.Generator().manual_seed(1))
    noisy = space.coordinates(target, noise, torch.device("cpu"))
    assert ((noisy[:, 4:] - clean[:, 4:]).abs() <= sizes + 1e-5).all()
    moved = (noisy[:, 1] * noisy[:, 4] - clean[:, 1] * clean[:, 4]).abs()
    assert (moved <= channels + 1e-4).all()


def test_embedding_is_sines_and_cosines_of_octaves() -> None:
    embedded = embed(torch.tensor([[0.3, 0.7]]), 3)
    angles = [math.pi * 2**k * v for v in (0.3, 0.7) for k in range(3)]
    wanted = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    torch.testing.assert_close(embedded[0], torch.tensor(wanted))


@pytest.mark.parametrize("per", ["type", "layer", "tensor"])
def test_mlp_parts_and_kernels(build, per: str) -> None:
    """ResNet-20 has 3×3 and 1×1 kernels, linear weights and vectors."""
    manifold = manifold_of(build, inr=MLP.model_copy(update={"per": per}))
    generated = manifold.generate(manifold.frame.sizes(0.5))
    structure = manifold.skeleton(manifold.frame.sizes(0.5)).state_dict()
    assert {n: tuple(w.shape) for n, w in generated.items()} == {
        n: tuple(structure[n].shape) for n in generated
    }
    layers = {s.module for s in manifold.specs}
    parts = {"type": 2, "layer": len(layers), "tensor": len(manifold.specs)}
    assert len(manifold.inr.parts) == parts[per]


def test_a_small_kernel_is_the_centre_and_a_vector_the_mean(build) -> None:
    manifold = manifold_of(build, inr=MLP.model_copy(update={"per": "type"}))
    field = manifold.inr
    target = next(
        t
        for t in manifold.targets(manifold.frame.full)
        if t.spec.name == "layer2.0.downsample.0.weight"
    )
    points = manifold.inr.space.coordinates(target, None, torch.device("cpu"))
    embedded = torch.cat([embed(points[:, :3], 4), embed(points[:, 3:], 4)], dim=1)
    raw = field.parts["weight"](embedded).view(32, 16, 3, 3) / 16
    made = field([target], None)[0]
    torch.testing.assert_close(made, raw[:, :, 1:2, 1:2])


@pytest.mark.parametrize("inr", [FACTORISED, SELECTED, INTEGRAL], ids=lambda inr: inr.kind)
def test_an_inr_begins_as_the_checkpoint(build, inr: InrSettings) -> None:
    model, arch = build("cifar_resnet20")
    manifold = manifold_of(build, inr=inr)
    x = torch.randn(2, *arch.default_input_size())
    assert relative_error(manifold.sample(1.0, samples=0)(x), model(x)) < 1e-4


@pytest.mark.parametrize("name", ["cifar_resnet20", "lenet", "timm/test_vit"])
@pytest.mark.parametrize("width", [1.0, 0.6, 0.3])
def test_the_selected_inr_begins_as_pruning_by_norm(build, name: str, width: float) -> None:
    """Convolutions, a flattened feature map, heads: all members of a clique choose alike."""
    manifold = manifold_of(build, name, SELECTED, fold=False)
    model, _ = build(name)
    sizes = manifold.frame.sizes(width)
    pruned = prune_l1(manifold.frame, model.state_dict(), sizes).state_dict()
    generated = manifold.generate(sizes)
    assert generated
    assert all(torch.equal(weight, pruned[name]) for name, weight in generated.items())


def test_each_knot_of_a_selected_inr_adds_its_change(build) -> None:
    """None at full width, the first at the first knot, half of the second half-way to it."""
    manifold = manifold_of(build, inr=SELECTED, fold=False)
    for number, change in enumerate(manifold.inr.grids["layer3/2/conv1/weight"].changes):
        torch.nn.init.constant_(change, 10.0 ** (number + 1))
    begun = manifold_of(build, inr=SELECTED, fold=False)
    expected = {1.0: 0.0, 1 - 0.15: 5.0, 0.7: 10.0, 1 - 0.45: 60.0, 0.4: 110.0, 0.2: 110.0}
    for width, change in expected.items():
        sizes = manifold.frame.sizes(width)
        got, was = (m.generate(sizes)["layer3.2.conv1.weight"] for m in (manifold, begun))
        largest = float((got - was).max())
        assert largest == pytest.approx(change, abs=4.0)  # whole channels, so not quite the width


def test_a_selected_inr_keeps_the_checkpoint_at_full_width(build) -> None:
    """Norm statistics included, whatever was learnt for other widths."""
    manifold = manifold_of(build, inr=SELECTED, fold=False)
    for parameter in manifold.inr.parameters():
        torch.nn.init.normal_(parameter)
    manifold.noise = NOISE.model_copy(update={"channels": 0.0, "sizes": 0.0})
    manifold.calibration.keep(torch.randn(16, 3, 32, 32))
    model, _ = build("cifar_resnet20")
    x = torch.randn(2, 3, 32, 32)
    for _ in range(2):  # and sampling leaves it as it is
        torch.testing.assert_close(manifold.sample(1.0)(x), model(x))
    assert not torch.equal(manifold.sample(0.99)(x), model(x))


def test_noise_mixes_a_selected_channel_with_its_neighbours(build) -> None:
    manifold = manifold_of(build, inr=SELECTED)
    sizes = manifold.frame.sizes(0.5)
    noise = Noise(0.4, 0.0, torch.Generator().manual_seed(0))
    name = "layer3.2.conv1.bias"
    clean, noisy = (manifold.generate(sizes, n)[name] for n in (None, noise))
    low = torch.minimum(clean, torch.minimum(clean.roll(1), clean.roll(-1)))
    high = torch.maximum(clean, torch.maximum(clean.roll(1), clean.roll(-1)))
    assert not torch.equal(clean, noisy)
    assert ((noisy >= low - 1e-6) & (noisy <= high + 1e-6)).all()


@pytest.mark.slow
@pytest.mark.parametrize("inr", [MLP, FACTORISED, SELECTED, INTEGRAL], ids=lambda inr: inr.kind)
@pytest.mark.parametrize("width", [0.01, 0.25, 0.37, 1.0, 1.6])
def test_any_width_gives_a_network_that_runs(build, inr: InrSettings, width: float) -> None:
    manifold = manifold_of(build, inr=inr)
    network = manifold.sample(width)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    for clique in manifold.frame.trace.cliques:
        wanted = max(1, math.floor(width * clique.channels + 0.5))
        assert network.get_parameter(clique.members[0].weight).shape[0] == wanted


@pytest.mark.slow
def test_the_papers_scope_is_the_last_block(build) -> None:
    manifold = manifold_of(build, scope="paper")
    assert manifold.frame.scope == ("layer3.2.conv1",)
    assert [s.name for s in manifold.specs] == [
        f"layer3.2.{m}.{t}" for m in ("conv1", "conv2") for t in ("weight", "bias")
    ]
    network = manifold.sample(0.5)
    assert network.layer3[2].conv1.weight.shape == (32, 64, 3, 3)
    assert network.layer3[1].conv1.weight.shape == (64, 64, 3, 3)
    assert manifold_of(build, "torchvision/resnet18", scope="paper").frame.scope == (
        "layer4.1.conv1",
    )
    assert manifold_of(build, "lenet", scope="paper").frame.scope == ("fc2",)


def test_patterns_choose_cliques(build) -> None:
    manifold = manifold_of(build, scope=["layer3.*.conv1", "conv1"])
    assert manifold.frame.scope == (
        "layer3.0.conv1",
        "layer3.1.conv1",
        "layer3.2.conv1",
        "conv1",
    )
    with pytest.raises(NeumetaError, match="scope 'layer9' fits no clique; there are: conv1"):
        manifold_of(build, scope="layer9")


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan, math.inf])
def test_widths_that_are_no_widths(build, width: float) -> None:
    with pytest.raises(NeumetaError, match="is not a positive number"):
        manifold_of(build, "lenet").sample(width)


def test_gradients_reach_only_the_tensors_that_are_trained(build) -> None:
    manifold = manifold_of(build, inr=MLP).requires_grad_(True)
    made = manifold.generate(manifold.frame.sizes(0.5), trained={"conv1.weight"})
    assert [n for n, w in made.items() if w.requires_grad] == ["conv1.weight"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "fold", "inr"),
    [
        (".pt", True, FACTORISED),
        (".safetensors", False, FACTORISED),
        (".pt", False, SELECTED),
        (".pt", False, SELECTED.model_copy(update={"store": "float16"})),
        (".pt", False, SELECTED.model_copy(update={"store": "int8"})),
    ],
)
def test_an_export_computes_what_its_twin_in_memory_does(
    build, tmp_path: Path, suffix: str, fold: bool, inr: InrSettings
) -> None:
    """In a process of its own, bit for bit."""
    manifold = manifold_of(build, fold=fold, inr=inr)
    manifold.round_as_stored()
    manifold.calibration.keep(torch.randn(16, 3, 32, 32))
    saved = save_manifold(tmp_path / "manifold.safetensors", manifold)
    exported = export_network(load_manifold(saved), tmp_path / f"half{suffix}", 0.5)
    x = torch.randn(4, 3, 32, 32)
    twin = manifold.sample(0.5)(x)
    assert torch.equal(exported.model(x), twin)
    torch.save({"x": x}, tmp_path / "x.pt")
    code = (
        "import torch, neumeta_cli, warnings\n"
        "warnings.simplefilter('error')\n"
        "warnings.simplefilter('ignore', ResourceWarning)\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        f"x = torch.load({str(tmp_path / 'x.pt')!r}, weights_only=True)['x']\n"
        f"y = neumeta_cli.load({str(exported.path)!r})(x)\n"
        f"torch.save({{'y': y}}, {str(tmp_path / 'y.pt')!r})\n"
    )
    told, errors = Program("-c", code).communicate()
    assert not told + errors
    assert torch.equal(torch.load(tmp_path / "y.pt", weights_only=True)["y"], twin)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.floats(1e-30, 1e30),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.sampled_from(["float32", "float16", "int8", "compact"]),
    st.integers(1, 127),
)
def test_packing_what_was_unpacked_changes_nothing(seed, size, shape, store, levels) -> None:
    generator = torch.Generator().manual_seed(seed)
    change = size * torch.randn(*shape, generator=generator)
    change[torch.rand(shape[0], generator=generator) < 0.2] = 0
    state = {"a": torch.randn(7, generator=generator), "b": change, "c": torch.tensor([3])}
    levels = levels if store == "compact" else 127
    once = unpack(pack(state, store, lambda *_: levels))
    again = unpack(pack(once, store, lambda *_: levels))
    assert once.keys() == again.keys() == state.keys()
    assert all(torch.equal(once[n], again[n]) for n in state)
    if store in ("int8", "compact") and len(shape) > 1:
        largest = change.flatten(1).abs().amax(1).view(-1, *(1,) * (len(shape) - 1))
        assert bool(((once["b"] - change).abs() <= largest / levels * 0.51).all())


def test_a_pt_export_is_a_plain_state_dict_for_torch(build, tmp_path: Path) -> None:
    exported = export_network(manifold_of(build), tmp_path / "small.pt", 0.5)
    content = torch.load(exported.path, weights_only=True)
    assert set(content["state_dict"]) == set(exported.model.state_dict())


def test_norm_statistics_follow_the_calibration_images(build) -> None:
    manifold = manifold_of(build, fold=False)
    images = torch.randn(32, 3, 32, 32)
    manifold.calibration.keep(images)
    network = manifold.sample(0.5)
    seen = []
    network.layer2[1].bn1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(torch.cat(list(manifold.calibration.batches())))
    mean = seen[0].mean((0, 2, 3))
    torch.testing.assert_close(network.layer2[1].bn1.running_mean, mean, rtol=1e-3, atol=1e-3)


def test_calibration_images_of_eight_bits_lose_nothing() -> None:
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    pixels[0, :, 0, 0], pixels[0, :, 0, 1] = 0, 255
    kept = CalibrationSet()
    kept.keep((pixels.float() / 255 - 0.4) / 0.3)
    assert torch.equal(kept.pixels, pixels)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_calibration_images_come_back_from_the_file_as_they_are_in_memory(channels: int) -> None:
    down, across = torch.linspace(-1, 1, 16)[:, None], torch.linspace(0, 1, 32)
    smooth = (torch.randn(7, 1, 1, 1) * down + across).repeat(1, channels, 1, 1)
    kept, again = CalibrationSet(), CalibrationSet()
    kept.keep(smooth, quality=90)
    again.unpack(kept.packed())
    mine, theirs = (torch.cat(list(c.batches())) for c in (kept, again))
    assert torch.equal(mine, theirs)
    assert float((mine - smooth).abs().mean()) < 0.1 * float(smooth.std())
    assert (kept.jpeg is None) == (channels == 2)


def test_selecting_channels_prunes_every_member(build) -> None:
    """Removing channels whose every weight is zero changes nothing."""
    model, arch = build("lenet")
    trace = trace_model(model, arch.default_input_size())
    clique = next(c for c in trace.cliques if c.name == "conv2")
    model.conv2.weight[5:], model.conv2.bias[5:] = 0.0, 0.0
    kept = {"conv2": torch.arange(5).numpy()}
    tensors = select_channels(model.state_dict(), trace, kept)
    small = build_resized(model, trace, {"conv2": 5}, tensors)
    x = torch.randn(3, 1, 28, 28)
    assert relative_error(small(x), model(x)) < 1e-5
    assert clique.channels == 16
    assert small.conv2.out_channels == 5


def test_at_full_width_a_resized_network_is_the_original(build) -> None:
    model, arch = build("torchvision/mobilenet_v3_small")
    trace = trace_model(model, arch.default_input_size())
    same = build_resized(model, trace, {}, model.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(same(x), model(x))
    half = resize_model(model, trace, {c.name: max(1, c.channels // 2) for c in trace.cliques})
    depthwise = [m for m in half.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert depthwise
    assert all(m.groups == m.in_channels == m.out_channels for m in depthwise)


def test_a_damaged_or_newer_manifold_is_refused(build, tmp_path: Path) -> None:
    import json

    from safetensors.torch import load_file, save_file

    path = save_manifold(tmp_path / "m.safetensors", manifold_of(build, "lenet"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NeumetaError, match="not a whole safetensors file"):
        load_manifold(path)
    path.write_bytes(whole)
    metadata = read_weights(path).metadata
    del metadata["digest"]
    newer = json.dumps(metadata | {"format_version": 99})
    save_file(load_file(path), path, {"neumeta": newer})
    with pytest.raises(NeumetaError, match="format version 99, this neumeta reads up to"):
        load_manifold(path)
    lacking = {n: t for n, t in load_file(path).items() if not n.startswith("fixed.")}
    lacking.pop(next(n for n in lacking if n.startswith("inr.")))
    save_file(lacking, path, {"neumeta": json.dumps(metadata)})
    with pytest.raises(NeumetaError, match="damaged manifold"):
        load_manifold(path)


def test_a_file_never_names_code_to_import(build, tmp_path: Path) -> None:
    import json

    from safetensors.torch import load_file, save_file

    path = save_manifold(tmp_path / "m.safetensors", manifold_of(build, "lenet"))
    metadata = read_weights(path).metadata
    del metadata["digest"]
    metadata["arch"] = {"name": "os:system", "kwargs": {"command": "touch hacked"}}
    save_file(load_file(path), path, {"neumeta": json.dumps(metadata)})
    with pytest.raises(NeumetaError, match="names code of its own, os:system"):
        load(path)


def test_a_tensor_of_several_names_is_generated_once_and_fixed_nowhere(build) -> None:
    model, arch = build("cifar_resnet20")
    model.layer3[2].conv2.weight = model.layer3[1].conv2.weight
    size = arch.default_input_size()
    manifold, _ = build_manifold(model, arch, size, "all", False, SELECTED, NOISE)
    names = {spec.name for spec in manifold.specs} | set(manifold.fixed)
    assert "layer3.1.conv2.weight" in names
    assert "layer3.2.conv2.weight" not in names
    half = manifold.sample(0.5)
    assert half.layer3[2].conv2.weight is half.layer3[1].conv2.weight
