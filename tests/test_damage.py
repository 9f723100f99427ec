"""Files that are damaged or made to do harm are refused with a reason, and run nothing."""

import random
import resource
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
import timm
import torch
from damage import (
    STRANGE,
    damaged,
    is_one_line,
    no_search,
    nothing_runs,
    places,
    put,
    read_again,
    rewritten,
    whole_files,
)
from safetensors.torch import save_file

from neumeta_cli.checkpoint import Weights, read_weights
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export import describe, export_network, load
from neumeta_cli.export.programs import CHANGED, Running

CASES = 55  # of each file, four times
SECONDS = 10.0  # of the processor that the slowest case may take
GROWTH = 1 << 29  # bytes that all cases together may add to this process's peak


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return whole_files(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def exported(
    files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    folder, manifold = tmp_path_factory.mktemp("programs"), load(files["manifold"])
    return cache(lambda ending: export_network(manifold, folder / f"x{ending}", 0.25).path)


@pytest.fixture(autouse=True)
def harmless() -> Iterator[None]:
    with nothing_runs():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("which", ["manifold", "network", "pt", "plain"])
def test_flipped_bits_and_cut_files_are_refused_or_harmless(
    files: dict[str, Path], tmp_path: Path, which: str
) -> None:
    """220 cases, of which nothing but a NeumetaError or the same tensors may come.

    ``tests/benchmarks/robustness.py`` tries ten times as many, each in a process of its own.
    """
    whole, path = files[which].read_bytes(), tmp_path / files[which].name
    rng, peak = random.Random(which), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused, slowest = 0, 0.0
    read_again(files[which], files[which], which)
    for _ in range(CASES):
        path.write_bytes(damaged(whole, rng))
        began = time.process_time()
        try:
            with no_search():
                read_again(path, files[which], which)
        except NeumetaError:
            refused += 1
        slowest = max(slowest, time.process_time() - began)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    assert refused > CASES // 4
    assert slowest < SECONDS
    assert grown < GROWTH


@pytest.mark.slow
@pytest.mark.parametrize("which", ["manifold", "network"])
def test_whatever_the_metadata_say_is_refused_or_harmless(
    files: dict[str, Path], tmp_path: Path, which: str
) -> None:
    """Each entry in turn is taken away or becomes something else."""
    metadata = read_weights(files[which]).metadata
    rng, path = random.Random(0), tmp_path / "x.safetensors"
    for place in places({k: v for k, v in metadata.items() if k not in ("cliques", "digest")}):
        value = rng.choice([*STRANGE, KeyError])
        rewritten(files[which], path, lambda m, place=place, value=value: put(m, place, value))
        for use in (load, describe):
            try:
                use(path)
            except NeumetaError as error:
                is_one_line(error)


HOSTILE = [
    ("os:system", {"command": "touch hacked"}, "names code of its own, os:system"),
    ("antigravity:geohash", {}, "names code of its own, antigravity:geohash"),
    ("timm/hf_hub:someone/model", {}, "names code of its own"),
    ("timm/resnet18", {"checkpoint_path": "/etc/passwd"}, "built with checkpoint_path"),
    ("timm/resnet18", {"pretrained": True}, "built with pretrained"),
    ("timm/resnet18", {"pretrained_cfg": {"url": "http://x"}}, "built with pretrained_cfg"),
    ("timm/vit_tiny_patch16_224", {"depth": 10**9}, "built with depth"),
    ("timm/resnet18", {"num_classes": 10**12}, "built with num_classes"),
    ("timm/resnet18", {"num_classes": "os.system('x')"}, "built with num_classes"),
    ("torchvision/resnet18", {"weights": "DEFAULT"}, "built with weights"),
    ("torchvision/fcn_resnet50", {"weights_backbone": "DEFAULT"}, "built with weights_backbone"),
    ("torchvision/../os", {}, "unknown architecture"),
    ("eval", {}, "unknown architecture"),
]


@pytest.mark.parametrize("which", ["manifold", "network", "checkpoint"])
@pytest.mark.parametrize(("name", "kwargs", "reason"), HOSTILE)
def test_nothing_that_a_file_names_is_imported_or_called_unasked(
    files: dict[str, Path], tmp_path: Path, monkeypatch, which: str, name, kwargs, reason
) -> None:
    def refuse(*given: Any, **named: Any) -> None:
        raise AssertionError(f"called with {given} {named}")

    monkeypatch.setattr(timm, "create_model", refuse)
    monkeypatch.setattr("torchvision.models.get_model", refuse)

    def change(metadata: dict[str, Any]) -> None:
        metadata["arch"] = {"name": name, "kwargs": kwargs}
        if which == "checkpoint":
            metadata["kind"] = which

    source = files["manifold" if which == "manifold" else "network"]
    path = rewritten(source, tmp_path / "x.safetensors", change)
    with pytest.raises(NeumetaError, match=reason):
        load(path)
    assert not Path("hacked").exists()


def test_a_users_own_code_is_built_when_it_is_trusted(
    files: dict[str, Path], tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "theirnet.py").write_text(
        "from neumeta_cli.zoo import ZOO\nmake = ZOO['lenet_digits'].build\n"
    )
    monkeypatch.chdir(tmp_path)
    path = rewritten(
        files["network"],
        tmp_path / "x.safetensors",
        lambda m: m.update(arch={"name": "theirnet:make", "kwargs": {}}),
    )
    with pytest.raises(NeumetaError, match="--trust-code"):
        load(path)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(load(path, trust_code=True)(images), load(files["network"])(images))


@pytest.mark.parametrize("which", ["manifold", "network"])
@pytest.mark.parametrize(
    ("version", "reason"), [(99, "upgrade neumeta"), (0, "no format version"), ("2", "no format")]
)
def test_other_versions(files: dict[str, Path], tmp_path: Path, which, version, reason) -> None:
    path = rewritten(
        files[which], tmp_path / "x.safetensors", lambda m: m.update(format_version=version)
    )
    with pytest.raises(NeumetaError, match=reason):
        load(path)
    if version == 99:
        assert any("newer" in warning for warning in describe(path)["warnings"])


def test_a_changed_weight_is_found_by_the_checksum(files: dict[str, Path], tmp_path: Path) -> None:
    for which in ("manifold", "network"):
        content = bytearray(files[which].read_bytes())
        content[-3] ^= 1
        path = tmp_path / "x.safetensors"
        path.write_bytes(content)
        with pytest.raises(NeumetaError, match="its content does not match its checksum"):
            load(path)


def test_files_that_would_fill_the_memory_are_not_read(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(1 << 26))
    with pytest.raises(NeumetaError, match=r"would take 67,108,864 bytes .* not read"):
        read_weights(bomb)
    wide = tmp_path / "wide.pt"
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, wide)
    with pytest.raises(NeumetaError, match="would take 4,000,000,000,000 bytes"):
        read_weights(wide)
    nested = tmp_path / "nested.safetensors"
    save_file({"a": torch.zeros(1)}, nested, {"neumeta": "[" * 100_000})
    with pytest.raises(NeumetaError, match="metadata is damaged"):
        read_weights(nested)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_damaged_programs_are_refused_or_compute_the_same(
    exported: Callable[[str], Path], tmp_path: Path, suffix: str
) -> None:
    whole = exported(suffix)
    rng, path, content = random.Random(0), tmp_path / f"y{suffix}", whole.read_bytes()
    read_again(whole, whole, suffix)
    refused = 0
    for _ in range(12):
        path.write_bytes(damaged(content, rng))
        try:
            read_again(path, whole, suffix)
        except NeumetaError:
            refused += 1
    assert refused > 4


@pytest.mark.slow
def test_a_program_that_another_tool_changed_is_not_measured_as_ours(
    exported: Callable[[str], Path], tmp_path: Path
) -> None:
    whole, path = exported(".onnx"), tmp_path / "x.onnx"
    assert CHANGED not in describe(whole)["warnings"]
    model = onnx.load(whole)
    model.doc_string = "optimised"
    onnx.save(model, path)
    assert CHANGED in describe(path)["warnings"]
    with pytest.raises(NeumetaError, match=r"x\.onnx: its content does not match its checksum"):
        Running(path)


@pytest.mark.parametrize("record", ["data.pkl", "data/0", "data/3"])
def test_checkpoints_of_anybodys_are_held_against_the_checksums_of_their_archive(
    files: dict[str, Path], tmp_path: Path, record: str
) -> None:
    content = bytearray(files["plain"].read_bytes())
    with zipfile.ZipFile(files["plain"]) as archive:
        name = next(n for n in archive.namelist() if n.endswith(f"/{record}"))
        begin = content.index(archive.read(name))
    content[begin + 100] ^= 1
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(
        NeumetaError, match=rf"x\.pth is damaged: \S+/{record} in it does not match"
    ):
        read_weights(path)


def test_an_archive_without_checksums_is_read(tmp_path: Path) -> None:
    before, weights = torch.serialization.get_crc32_options(), {"w": torch.rand(9)}
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(read_weights(tmp_path / "x.pth").tensors["w"], weights["w"])


def test_weights_know_nothing_of_their_digest(tmp_path: Path) -> None:
    """What is read and written again gets a checksum of its own."""
    from neumeta_cli.checkpoint import write_weights

    first = write_weights(tmp_path / "a.pt", Weights({"w": torch.ones(2)}, {"kind": "x"}))
    read = read_weights(first)
    again = Weights({"w": torch.zeros(2)}, read.metadata)
    assert torch.equal(
        read_weights(write_weights(tmp_path / "b.pt", again)).tensors["w"], torch.zeros(2)
    )
