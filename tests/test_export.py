"""Formats, folding, calibration and number formats of exports, and what info tells of them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import relative_error
from manifolds import LENET, RESNET, saved_manifold, small_images, tiny_manifold
from tiny_fits import TINY
from torch import nn

from neumeta_cli.checkpoint import Weights, file_hash, write_weights
from neumeta_cli.data.settings import DataSection
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export import Finish, describe, export_network, load, programs, rewrite
from neumeta_cli.manifold import Manifold, save_manifold
from neumeta_cli.resize import has_statistics
from neumeta_cli.tasks import load_task

BATCHES = (1, 2, 7)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NEAR = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 8e-2}
ALONE = """
import sys
sys.modules["neumeta_cli"] = None  # any import of it fails
import numpy as np, onnxruntime, torch
folder = sys.argv[1]
program = torch.export.load(f"{folder}/a b.pt2").module()
session = onnxruntime.InferenceSession(f"{folder}/a b.onnx")
for batch in (1, 2, 7):
    images = np.load(f"{folder}/{batch}.npy")
    np.save(f"{folder}/{batch}.torch.npy", program(torch.from_numpy(images)).numpy())
    np.save(f"{folder}/{batch}.onnx.npy", session.run(None, {"input": images})[0])
"""


@pytest.fixture(scope="module")
def resnet() -> Manifold:
    return tiny_manifold(RESNET)


@pytest.fixture(scope="module")
def lenet() -> Manifold:
    return tiny_manifold(LENET)


def norms_of(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if has_statistics(module)]


def run_onnx(path: Path, images: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    return torch.from_numpy(session.run(None, {"input": images.numpy()})[0])


@pytest.mark.slow
def test_programs_run_where_neumeta_is_not_installed(tmp_path: Path) -> None:
    """In a process that cannot import it, at several batch sizes, as the network in torch."""
    manifold, folder = tiny_manifold(TINY), tmp_path / "größe 1"
    exports = [export_network(manifold, folder / f"a b{s}", 0.5) for s in (".onnx", ".pt2")]
    twin = manifold.sample(0.5)
    for batch in BATCHES:
        np.save(folder / f"{batch}.npy", small_images(manifold, batch).numpy())
    subprocess.run([sys.executable, "-c", ALONE, str(folder)], check=True, cwd=folder)
    for batch in BATCHES:
        wanted = twin(small_images(manifold, batch))
        for made in ("torch", "onnx"):
            got = torch.from_numpy(np.load(folder / f"{batch}.{made}.npy"))
            assert relative_error(got, wanted) < 1e-5
    assert not any(norms_of(export.model) for export in exports)  # folded, unless told otherwise
    for export in exports:
        assert b".py" not in export.path.read_bytes()  # names no file of this machine


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fold", [True, False])
def test_load_gives_back_what_was_exported(
    resnet: Manifold, tmp_path: Path, suffix: str, dtype: str, fold: bool
) -> None:
    exported = export_network(
        resnet, tmp_path / f"x{suffix}", 0.5, finish=Finish(fold=fold, dtype=dtype)
    )
    again = load(exported.path)
    images = small_images(resnet, 3, DTYPES[dtype])
    assert torch.equal(again(images), exported.model(images))
    assert {p.dtype for p in again.parameters()} == {DTYPES[dtype]}
    assert bool(norms_of(again)) != fold
    plain = resnet.sample(0.5)(small_images(resnet, 3))
    assert relative_error(again(images).float(), plain) < max(NEAR[dtype], 1e-4)
    if suffix == ".pt":
        content = torch.load(exported.path, weights_only=True)
        assert set(content["state_dict"]) == set(again.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "dtype"), [(".onnx", "float16"), (".pt2", "float16"), (".pt2", "bfloat16")]
)
def test_programs_in_half_precision(
    lenet: Manifold, tmp_path: Path, suffix: str, dtype: str
) -> None:
    path = export_network(lenet, tmp_path / f"x{suffix}", 0.5, finish=Finish(dtype=dtype)).path
    wanted = lenet.sample(0.5)
    for batch in BATCHES:
        images = small_images(lenet, batch, DTYPES[dtype])
        if suffix == ".onnx":
            got = run_onnx(path, images)
        else:
            got = torch.export.load(path).module()(images)
        assert got.dtype == DTYPES[dtype]
        assert relative_error(got.float(), wanted(images.float())) < NEAR[dtype]


@pytest.mark.slow
def test_norms_can_be_kept_in_programs(resnet: Manifold, tmp_path: Path) -> None:
    exported = export_network(resnet, tmp_path / "x.pt2", 0.25, finish=Finish(fold=False))
    assert norms_of(exported.model)
    assert describe(exported.path)["fold"] is False


def test_what_cannot_be_is_refused_before_any_work(
    lenet: Manifold, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(Manifold, "sample", None)
    folded = tiny_manifold(RESNET, fold=True)
    for manifold, name, finish, reason in (
        (lenet, "x.exe", Finish(), "use one of the endings .pt, .pth, .safetensors, .onnx, .pt2"),
        (lenet, "x.pt", Finish(dtype="int3"), "unknown number format 'int3'"),
        (lenet, "x.onnx", Finish(dtype="bfloat16"), "use float16 or a .pt2 file"),
        (folded, "x.pt", Finish(fold=False), "--set norm.fold=false"),
        (lenet, "x.pt", Finish(calibrate=tmp_path / "none"), "none: no such folder"),
        (lenet, "x.pt", Finish(calibrate=tmp_path), "it holds 0 images"),
    ):
        with pytest.raises(NeumetaError, match=reason):
            export_network(manifold, tmp_path / name, 0.5, finish=finish)
    monkeypatch.setattr(programs, "find_spec", lambda name: None)
    with pytest.raises(NeumetaError, match=r"ONNX needs onnx and .*neumeta\[onnx\]"):
        export_network(lenet, tmp_path / "x.onnx", 0.5)
    with pytest.raises(NeumetaError, match="reading ONNX needs onnx"):
        programs.read_onnx(tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_program_that_computes_otherwise_is_not_kept(
    lenet: Manifold, tmp_path: Path, monkeypatch, suffix: str
) -> None:
    opened = f"_open_{suffix[1:]}"
    right = getattr(programs, opened)

    def wrong(path: Path):
        run = right(path)
        return lambda images: [t * (1 + 1e-4) for t in run(images)]

    (tmp_path / f"x{suffix}").write_text("old")
    monkeypatch.setattr(programs, opened, wrong)
    with pytest.raises(NeumetaError, match=r"computes otherwise .* nothing is written"):
        export_network(lenet, tmp_path / f"x{suffix}", 0.5)
    monkeypatch.setattr(programs, opened, lambda path: (path / "nowhere").read_bytes())
    with pytest.raises(NeumetaError, match="would not load or run again"):
        export_network(lenet, tmp_path / f"x{suffix}", 0.5)
    assert [p.name for p in tmp_path.iterdir()] == [f"x{suffix}"]
    assert (tmp_path / f"x{suffix}").read_text() == "old"


def test_numbers_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    manifold = tiny_manifold(LENET)
    manifold.inr.grids["conv1/weight"].whole.mul_(1e6)
    with pytest.raises(NeumetaError, match=r"in float16 .* export it in bfloat16 or float32"):
        export_network(manifold, tmp_path / "x.pt", 1.0, 0, finish=Finish(dtype="float16"))
    export_network(manifold, tmp_path / "x.pt", 1.0, 0, finish=Finish(dtype="bfloat16"))


def test_norms_are_fitted_to_a_folder_of_images_without_labels(
    resnet: Manifold, image_folder: Path, tmp_path: Path
) -> None:
    """The statistics are those of the images, whatever folders they lie in."""
    images = image_folder / "train"
    made = export_network(resnet, tmp_path / "x.pt", 0.5, finish=Finish(calibrate=images))
    data = DataSection(root=str(image_folder))
    task = load_task(data, made.model, (3, 32, 32))
    inputs = task.inputs(task.train, torch.arange(len(task.train)), None)
    seen = []
    made.model.bn1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    made.model(inputs)
    mean = seen[0].mean((0, 2, 3))
    torch.testing.assert_close(made.model.bn1.running_mean, mean, rtol=1e-3, atol=1e-4)
    known = describe(made.path)["calibrated"]
    assert known == {"images": len(inputs), "fitted": "norm statistics"}


@pytest.mark.slow
def test_biases_follow_the_full_width_where_norms_were_folded(
    image_folder: Path, tmp_path: Path
) -> None:
    """On images that they were not fitted to; nothing but biases changes."""
    manifold = tiny_manifold(TINY, fold=True)
    images = image_folder / "train"
    before = export_network(manifold, tmp_path / "before.pt", 0.75).model
    after = export_network(
        manifold, tmp_path / "after.pt", 0.75, finish=Finish(calibrate=images)
    ).model
    moved = {n for n, t in after.state_dict().items() if not torch.equal(t, before.state_dict()[n])}
    assert moved
    assert all(name.endswith("bias") for name in moved)
    task = load_task(DataSection(root=str(image_folder)), after, manifold.input_size, train=False)
    inputs = task.inputs(task.test, torch.arange(len(task.test)), None)
    wanted = manifold.sample(1.0)(inputs).log_softmax(1)
    far, near = (
        float(
            nn.functional.kl_div(
                m(inputs).log_softmax(1), wanted, reduction="batchmean", log_target=True
            )
        )
        for m in (before, after)
    )
    assert near < 0.9 * far


@pytest.mark.slow
def test_a_network_calibrates_as_its_manifold_does(image_folder: Path, tmp_path: Path) -> None:
    resnet, finish = tiny_manifold(RESNET), Finish(calibrate=image_folder)
    at_once = export_network(resnet, tmp_path / "at_once.pt", 0.5, finish=finish).path
    plain = export_network(resnet, tmp_path / "plain.pt", 0.5).path
    later = rewrite(plain, tmp_path / "later.pt", finish)
    images = small_images(resnet, 4)
    before, after, wanted = (load(file)(images) for file in (plain, later, at_once))
    assert torch.equal(after, wanted)
    assert not torch.allclose(after, before)
    assert describe(later)["calibrated"] == describe(at_once)["calibrated"]
    folded = rewrite(plain, tmp_path / "folded.pt", Finish(fold=True))
    with pytest.raises(NeumetaError, match=r"no norm statistics.*exported from its manifold"):
        rewrite(folded, tmp_path / "x.pt", finish)


def test_grey_networks_calibrate_on_colour_images(image_folder: Path, tmp_path: Path) -> None:
    finish = Finish(calibrate=image_folder)
    path = export_network(tiny_manifold(LENET), tmp_path / "x.pt", 0.5, finish=finish).path
    assert describe(path)["calibrated"] == {"images": 150, "fitted": "biases"}


@pytest.mark.slow
def test_info_tells_the_same_of_an_export_in_every_format(
    lenet: Manifold, tmp_path: Path, neumeta
) -> None:
    table = [{"method": "NeuMeta", "width": 0.5, "metrics": {"top-1": 0.9}}]
    manifold = tiny_manifold(LENET, table=table)
    told = []
    for suffix in (".pt", ".safetensors", ".onnx", ".pt2"):
        path = export_network(manifold, tmp_path / f"ein Netz{suffix}", 0.5).path
        result = neumeta("info", path, "--json", "-")
        document = json.loads(result.stdout)
        assert document["bytes"] == path.stat().st_size
        told.append({n: document[n] for n in SAME_EVERYWHERE})
        shown = neumeta("info", path).stdout
        for words in (
            "network",
            "zoo/lenet_digits",
            "1×8×8",
            "tiny.pth",
            "SHA-256",
            "abab",
            "90.00%",
        ):
            assert words in shown
    network = manifold.sample(0.5)
    assert told[0]["parameters"] == sum(p.numel() for p in network.parameters())
    folded = [t.pop("fold") for t in told]
    assert folded == [False, False, True, True]
    assert all(t == told[0] for t in told)


SAME_EVERYWHERE = (
    *("kind", "format_version", "arch", "input_size", "width", "sizes", "parameters", "macs"),
    *("dtype", "recipe", "provenance", "metrics", "warnings", "calibrated", "fold"),
)


@pytest.mark.slow
def test_info_tells_of_checkpoints_manifolds_and_states(
    neumeta, resnet20_file: Path, tmp_path: Path
) -> None:
    plain = json.loads(neumeta("info", resnet20_file, "--json", "-").stdout)
    assert (plain["kind"], plain["arch"]["name"]) == ("checkpoint", "zoo/cifar_resnet20")
    assert (plain["parameters"], plain["macs"]) == (272_474, 40_813_184)
    assert plain["provenance"]["sha256"] == file_hash(resnet20_file)
    assert neumeta("permute", resnet20_file, "--solver", "greedy", "-o", "p.safetensors").code == 0
    assert "zoo/cifar_resnet20" in neumeta("info", "p.safetensors").stdout
    path = save_manifold(tmp_path / "m.safetensors", tiny_manifold(RESNET))
    whole = json.loads(neumeta("info", path, "--json", "-").stdout)
    assert (whole["kind"], whole["parameters"]) == ("manifold", plain["parameters"])
    assert whole["widths"] == {"trained": [0.5, 1.0]}
    assert whole["calibration_images"] == 16
    assert any("not trained" in warning for warning in whole["warnings"])
    state = {n: torch.zeros(1) for n in ("field", "average", "optimizer")} | {"step": 7}
    torch.save(state, "state.pt")
    assert json.loads(neumeta("info", "state.pt", "--json", "-").stdout)["step"] == 7
    own = {"kind": "checkpoint", "arch": {"name": "os:system", "kwargs": {}}}
    write_weights(Path("own.safetensors"), Weights({"a": torch.zeros(2)}, own))
    unknown = json.loads(neumeta("info", "own.safetensors", "--json", "-").stdout)
    assert "architecture not known: own.safetensors names code of its own" in unknown["warnings"][0]


@pytest.mark.slow
def test_the_command_line_exports_and_evaluates_half_precision(neumeta, tmp_path: Path) -> None:
    manifold = saved_manifold(tmp_path)
    for name, options in (("Größe ½.pt", ["--dtype", "float16"]), ("b.pt", ["--fold"])):
        result = neumeta("export", manifold, "--width", "0.5", "-o", name, *options)
        assert result.code == 0
        assert f"written: {name}" in result.stdout
        rows = json.loads(neumeta("eval", name, "--json", "-", "-q").stdout)["rows"]
        assert 0 <= rows[0]["metrics"]["top-1"] <= 1
    assert neumeta("export", manifold, "--width", "0.5", "-o", "c.pt2", "-q").code == 0
    result = neumeta("eval", "c.pt2")
    assert result.code == 0
    assert "359 test images" in result.stdout
