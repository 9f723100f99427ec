"""Fits that train depth: what networks with fewer blocks become, and that others stay."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import randomise_norms
from hypothesis import given, settings
from hypothesis import strategies as st
from manifolds import RESNET
from test_cli import fails
from tiny_fits import prepared, recipe_for
from torch import Tensor

import neumeta_cli
from neumeta_cli.checkpoint import load_checkpoint, resolve
from neumeta_cli.cli.gains import accuracy_line, share_of_parameters
from neumeta_cli.distill import Fitter, fit_manifold, open_fit
from neumeta_cli.distill.settings import FitSection
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate import MANIFOLD
from neumeta_cli.export import export_network
from neumeta_cli.manifold import (
    Manifold,
    build_manifold,
    load_manifold,
    save_manifold,
)
from neumeta_cli.manifold.inr import inr_settings
from neumeta_cli.manifold.inr.depths import Depths, come_in
from neumeta_cli.manifold.settings import NoiseSection
from neumeta_cli.recipe import Recipe
from neumeta_cli.resize import Frame, open_frame
from neumeta_cli.tasks import load_task

ORDER = ["layer1.1", "layer3.2", "layer1.0", "layer3.1", "layer2.2"]
SELECTED = {"kind": "selected", "store": "float32", "blocks": ORDER}
MORE = {"layer1.2": 1, "layer3.2": 2}
LONGER = SELECTED | {"added": MORE}
STEPS = {"epochs": 1, "batch_size": 40, "anchors": [0.5], "update": 1.0}
FRAME = open_frame(resolve(RESNET).build(), (3, 32, 32)).with_scope("all")


def recipe(image_folder: Path, kind: dict = SELECTED, **fit: object) -> Recipe:
    return recipe_for(
        image_folder,
        model={"arch": RESNET},
        scope="all",
        inr=kind,
        loss={"task": 0.0, "recon": 0.0, "reg": 0.0, "distill": 1.0},
        noise={"channels": 0.0, "sizes": 0.0, "samples": 1},
        fit=STEPS | fit,
    )


def fitted(build, made: Recipe) -> tuple[Manifold, dict[str, Tensor]]:
    manifold, tensors, task = prepared(build, made)
    before = {n: t.clone() for n, t in manifold.inr.state_dict().items()}
    fit_manifold(manifold, tensors, task, made)
    return manifold, before


@pytest.fixture(scope="module")
def build():
    def make(name: str):
        torch.manual_seed(0)
        arch = resolve(name)
        model = arch.build("cpu")
        randomise_norms(model)
        return model.requires_grad_(False), arch

    return make


def test_networks_with_all_blocks_are_as_they_are_without_depth(build, image_folder: Path) -> None:
    plain, _ = fitted(build, recipe(image_folder))
    deep, before = fitted(build, recipe(image_folder, depths=(0.3, 1.0)))
    own, after = plain.inr.state_dict(), deep.inr.state_dict()
    kept = [name for name in own if ".deep." not in name]
    assert all(torch.equal(own[name], after[name]) for name in kept)
    moved = {name for name in after if ".deep." in name and bool((after[name] != 0).any())}
    assert {name.split("/")[0] for name in (n.removeprefix("grids.") for n in moved)} >= {
        "layer1",
        "layer2",
        "layer3",
    }
    assert not any(bool(before[name].any()) for name in moved)


def test_a_fit_brings_short_networks_closer(build, image_folder: Path) -> None:
    manifold, tensors, task = prepared(
        build, recipe(image_folder, depths=(0.3, 1.0), epochs=8, ema=0.9)
    )
    x = task.inputs(task.train, torch.arange(60), None)
    wanted = manifold.sample(1.0)(x)
    assert not torch.equal(wanted, manifold.sample(0.5)(x))
    gone = manifold.inr.depths.gone({"layer1": 2, "layer2": 1, "layer3": 2})

    def apart() -> float:
        return float(task.divergence(manifold.without(gone).sample(1.0)(x), wanted, 1.0))

    begun = apart()
    fit_manifold(
        manifold, tensors, task, recipe(image_folder, depths=(0.3, 1.0), epochs=8, ema=0.9)
    )
    assert apart() < 0.7 * begun


def test_blocks_that_are_added_change_nothing_but_themselves(build, image_folder: Path) -> None:
    """Until they are trained, nothing at all; then all networks without them are as before."""
    plain, _ = fitted(build, recipe(image_folder, epochs=4))
    made = recipe(image_folder, LONGER, depths=(0.3, 1.67), epochs=4)
    begun, _, task = prepared(build, made)
    x = task.inputs(task.train, torch.arange(20), None)
    longer = begun.longer(MORE)
    assert torch.equal(begun.sample(1.0)(x), longer.sample(1.0)(x))
    assert torch.equal(
        begun.sample(0.5, samples=0).layer1[2].conv1.weight,
        longer.sample(0.5, samples=0).layer1[2].added[0].conv1.weight,
    )
    after, _ = fitted(build, made)
    own, other = plain.inr.state_dict(), after.inr.state_dict()
    kept = [name for name in own if ".deep." not in name]
    assert all(torch.equal(own[name], other[name]) for name in kept)
    moved = {name for name in other if name.startswith("additions.") and bool(other[name].any())}
    assert {name.split("/conv")[0] for name in moved} == {
        "additions.layer1/2/added/0",
        "additions.layer3/2/added/0",
        "additions.layer3/2/added/1",
    }
    wide = [m.longer(MORE).sample(1.0)(x) for m in (begun, after)]
    assert not torch.equal(*wide)
    assert torch.equal(begun.sample(1.0)(x), after.sample(1.0)(x))


def test_a_fit_brings_long_narrow_networks_closer(build, image_folder: Path) -> None:
    """Closer than the same widths without the blocks that were added."""
    fit = {"depths": (1.0, 1.67), "epochs": 8, "ema": 0.9, "gamma": [0.5, 0.5]}
    made = recipe(image_folder, LONGER | {"blocks": []}, **fit)
    manifold, tensors, task = prepared(build, made)
    x = task.inputs(task.train, torch.arange(60), None)
    wanted = manifold.sample(1.0)(x)
    long = manifold.longer(MORE)

    def apart() -> float:
        return float(task.divergence(long.sample(0.5)(x), wanted, 1.0))

    begun = apart()
    fit_manifold(manifold, tensors, task, made)
    assert apart() < 0.9 * begun


@pytest.mark.parametrize("store", ["float32", "int8", "compact"])
def test_a_file_keeps_blocks_that_were_added(build, tmp_path: Path, store: str) -> None:
    model, arch = build(RESNET)
    made = inr_settings(**LONGER | {"store": store})
    manifold, _ = build_manifold(model, arch, (3, 32, 32), "all", False, made, NoiseSection())
    manifold.calibration.keep(torch.randn(16, 3, 32, 32), quality=90)
    with torch.no_grad():
        for change in manifold.inr.changes_by_depth():
            change.normal_(std=0.01)
    manifold.round_as_stored()
    again = load_manifold(save_manifold(tmp_path / "m.safetensors", manifold))
    x = torch.randn(2, 3, 32, 32)
    for more in (MORE, {"layer1.2": 3, "layer2.2": 1}):  # also more than were trained
        for width in (1.0, 0.5, 1.25):
            one, other = (m.longer(more).sample(width, samples=0)(x) for m in (manifold, again))
            assert torch.equal(one, other)
            written = export_network(again.longer(more), tmp_path / "n.pt", width, samples=0)
            assert torch.equal(neumeta_cli.load(written.path)(x), one)
    both = again.without(["layer2.2"]).longer(MORE).sample(0.5, samples=0)
    assert torch.isfinite(both(x)).all()
    names = [name for name in manifold.packed() if "additions" in name]
    assert {manifold.part(name) for name in names} == {"INR: blocks that are added"}


def test_the_memory_told_is_that_of_the_largest_short_network_too(build, image_folder) -> None:
    told = []
    for kind, depths in ((SELECTED, None), (SELECTED, (0.3, 1.0)), (LONGER, (0.3, 1.67))):
        made = recipe(image_folder, kind, depths=depths)
        fitter = Fitter(*prepared(build, made), made)
        told.append(fitter.stepper.footprint("float32", 16))
    assert told[2] > told[1] > told[0]  # as wide as the checkpoint; the anchor is half as wide


@settings(max_examples=30, deadline=None)
@given(
    st.permutations(ORDER),
    st.dictionaries(st.sampled_from(["layer1", "layer2"]), st.integers(0, 3)),
)
def test_a_run_keeps_its_own_order_and_one_block(order: list[str], counts: dict[str, int]) -> None:
    depths = Depths(FRAME, order)
    gone = depths.gone(counts)
    for run in ("layer1", "layer2", "layer3"):
        own = [block for block in order if block.startswith(run)][:2]
        assert list(depths.order[run]) == own
        taken = [block for block in gone if block.startswith(run)]
        assert taken == own[: counts.get(run, 0)]
        assert depths.missing(gone)[run] == len(taken) / len(own)


@given(st.floats(0, 1))
def test_changes_come_in_one_after_another(at: float) -> None:
    first, second = come_in([0.5, 1.0], at)
    assert 0 <= second <= first <= 1
    assert first + second == pytest.approx(2 * at)


def test_coordinates_of_a_shorter_network_are_its_own() -> None:
    """l/L and L/N of equation 1: the layers that are left, and how many there are."""
    arch = resolve(RESNET)
    settings, noise = inr_settings("mlp", hidden=8, layers=2), NoiseSection()
    manifold, _ = build_manifold(arch.build("cpu"), arch, (3, 32, 32), "all", True, settings, noise)
    short = manifold.without(["layer1.0", "layer3.2"])
    device = torch.device("cpu")
    space = manifold.inr.space
    rows = [space.coordinates(t, None, device)[0, [0, 3]] for t in short.targets(short.frame.full)]
    count = len(rows)
    assert count < len(manifold.specs)
    for place, row in enumerate(rows):
        torch.testing.assert_close(row, torch.tensor([place / count, count / space.largest]))


def test_a_file_keeps_order_and_changes(build, tmp_path: Path) -> None:
    model, arch = build(RESNET)
    made = inr_settings(**SELECTED)
    manifold, _ = build_manifold(model, arch, (3, 32, 32), "all", True, made, NoiseSection())
    with torch.no_grad():
        for change in manifold.inr.changes_by_depth():
            change.normal_(std=0.01)
    again = load_manifold(save_manifold(tmp_path / "m.safetensors", manifold))
    gone = again.inr.depths.gone({"layer1": 1, "layer3": 2})
    assert gone == ("layer1.1", "layer3.2", "layer3.1")
    x = torch.randn(2, 3, 32, 32)
    one, other = (m.without(gone).sample(0.5, samples=0)(x) for m in (manifold, again))
    assert torch.equal(one, other)
    dropped = manifold.without(gone).sample(1.0, samples=0).state_dict()
    own = manifold.sample(1.0, samples=0).state_dict()
    changed = {n.split(".")[0] for n, t in dropped.items() if not torch.equal(t, own[n])}
    assert changed == {"layer1", "layer3", "fc"}  # of layer2 no block is missing


def test_what_goes_with_depth_and_what_does_not(build, image_folder: Path) -> None:
    with pytest.raises(neumeta_cli.NeumetaError, match=r"no block of this network can go"):
        fitted(build, recipe(image_folder, SELECTED | {"blocks": []}, depths=(0.5, 1.0)))
    with pytest.raises(neumeta_cli.NeumetaError, match=r"layer2\.0 is no block that can go \(lay"):
        prepared(build, recipe(image_folder, SELECTED | {"blocks": ["layer2.0"]}))
    with pytest.raises(neumeta_cli.NeumetaError, match=r"fit\.views=0"):
        fitted(build, recipe(image_folder, depths=(0.5, 1.0), views=1))
    for block, count in (("layer1.0", 1), ("layer1.2", 10), ("", 1)):
        with pytest.raises(neumeta_cli.NeumetaError, match=r"what can be added: 9 after layer1\.2"):
            prepared(build, recipe(image_folder, SELECTED | {"added": {block: count}}))
    with pytest.raises(ValueError, match=r"begins at 1 or below"):
        FitSection(depths=(1.2, 1.5))


@pytest.mark.parametrize(
    ("changed", "depths", "why"),
    [
        (
            {},
            (0.5, 1.1),
            r"fit\.depths above 1: 1\.1 adds none to runs of at most 3 blocks; 1\.34 ",
        ),
        (
            {"scope": ["layer1.0.conv1"]},
            (1.0, 1.34),
            r"nothing in scope lets blocks that are added do",
        ),
        ({"inr": {"kind": "mlp"}}, (1.0, 1.34), r"kind mlp learn nothing of .*; the kind selected"),
        ({"inr": LONGER}, (0.5, 1.0), r"inr\.added: nothing trains blocks that are added; let fit"),
    ],
)
def test_why_a_fit_trains_no_more_blocks(
    build,
    image_folder: Path,
    tmp_path: Path,
    changed: dict,
    depths: tuple[float, float],
    why: str,
) -> None:
    made = recipe(image_folder, SELECTED, depths=depths)
    made = Recipe(**made.model_dump(exclude=set(changed)) | changed)
    torch.save(build(RESNET)[0].state_dict(), file := tmp_path / "net.pth")
    checkpoint = load_checkpoint(file)
    task = load_task(made.data, checkpoint.model, (3, 32, 32))
    with pytest.raises(neumeta_cli.NeumetaError, match=why):
        open_fit(checkpoint, task, made)


def test_what_is_added_out_of_scope_learns_nothing(build) -> None:
    inr = inr_settings(**LONGER)
    manifold, _ = build_manifold(*build(RESNET), (3, 32, 32), "paper", False, inr, NoiseSection())
    assert manifold.inr.depths.added == {"layer3.2": 2}


def test_a_file_keeps_many_blocks(build, tmp_path: Path) -> None:
    more = {f"layer{stage}.8": 27 for stage in (1, 2, 3)}
    inr = inr_settings(kind="selected", store="compact", added=more)
    model, arch = build("zoo/cifar_resnet56")
    manifold, _ = build_manifold(model, arch, (3, 32, 32), "all", False, inr, NoiseSection())
    again = load_manifold(save_manifold(tmp_path / "m.safetensors", manifold))
    assert again.inr.depths.added == more


def test_what_is_told_of_trained_blocks_that_were_added(build) -> None:
    inr = inr_settings(**LONGER)
    manifold, _ = build_manifold(*build(RESNET), (3, 32, 32), "all", False, inr, NoiseSection())
    row = {"method": MANIFOLD, "width": 1.0, "metrics": {"top-1": 0.5}}
    manifold.provenance = replace(manifold.provenance, metrics={"table": [row]})
    longer = manifold.longer({"layer3.2": 1})
    assert accuracy_line(longer, 1.0) is not None  # they change nothing
    with torch.no_grad():
        manifold.inr.additions["layer3/2/added/0/bn2/weight"] += 0.1
    assert manifold.inr.learnt == {"layer3.2": 2}
    assert accuracy_line(longer, 1.0) is None
    assert accuracy_line(manifold.longer({"layer1.2": 1}), 1.0) is not None
    assert share_of_parameters(longer, manifold.frame.full) > 1


def test_copies_are_tried_beside_blocks_that_are_trained(build, monkeypatch) -> None:
    inr = inr_settings(**LONGER)
    manifold, _ = build_manifold(*build(RESNET), (3, 32, 32), "all", False, inr, NoiseSection())
    with torch.no_grad():
        manifold.inr.additions["layer3/2/added/0/bn2/weight"] += 0.1
    copied = Frame.copied

    def loud(self: Frame, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        made = copied(self, tensors)
        return made | {n: t + 1 for n, t in made.items() if n == "layer1.2.added.0.bn2.weight"}

    monkeypatch.setattr(Frame, "copied", loud)
    assert manifold.longer({"layer3.2": 1}).frame.added
    with pytest.raises(NeumetaError, match=r"no block can be added after layer1\.2: it would"):
        manifold.longer({"layer1.2": 1, "layer3.2": 1})


@pytest.mark.slow
def test_fit_and_export_with_depth(neumeta, tmp_path: Path, image_folder: Path) -> None:
    torch.manual_seed(0)
    torch.save(resolve(RESNET).build("cpu").state_dict(), file := tmp_path / "net.pth")
    told = neumeta(
        "fit", "--checkpoint", file, "--data", image_folder, "--epochs", 1, "--run", "r",
        "--set", "fit.depths=[0.34,1.34]", "--set", "fit.precision=float32",
    )  # fmt: skip
    assert told.code == 0, told.stderr
    manifold = load_manifold(Path("r/manifold.safetensors"))
    assert len(manifold.inr.depths.blocks) == 6
    told = neumeta("export", "r/manifold.safetensors", "--width", 1, "--depth", 0.34, "-o", "s.pt")
    assert told.code == 0, told.stderr
    assert "the order of the fit" in told.stderr
    short = neumeta_cli.load("s.pt")
    assert sum(len(layer) for layer in (short.layer1, short.layer2, short.layer3)) == 9
    assert all(name in neumeta("info", "s.pt").stdout for name in manifold.inr.depths.blocks)
    told = neumeta("export", "r/manifold.safetensors", "--width", 1, "--depth", 1.67, "-o", "l.pt")
    assert told.code == 0, told.stderr
    assert (
        "the fit trained 1 after layer1.2, 1 after layer2.2, 1 after layer3.2; the" in told.stderr
    )
    assert len(neumeta_cli.load("l.pt").layer2[2].added) == 2
    fails(neumeta("export", "r/manifold.safetensors", "--depth", "5", "-o", "t.pt"), "at most 4")
