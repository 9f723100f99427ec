"""Files that are called weights and are something else are told as what they are."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from saved_files import opened, plain, same, trained

from neumeta_cli.checkpoint import read_weights
from neumeta_cli.errors import NeumetaError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 44\n"


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pth.tar"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LFS, "is a Git LFS pointer, not the weights; run git lfs pull"),
        (b"\n<!DOCTYPE html><html>Not found", "is a web page"),
        (gzip.compress(b"weights", mtime=0), "is compressed by gzip; unpack it"),
        (b'{"model": "resnet18"}', "is JSON"),
        (array(), "is an array of numpy"),
        (b"\x89HDF\r\n\x1a\n", "is HDF5"),
        (b"GGUF\x03\x00", "is GGUF"),
    ],
    ids=["lfs", "html", "gzip", "json", "numpy", "hdf5", "gguf"],
)
def test_what_a_file_is_instead_is_told(
    tmp_path: Path, content: bytes, said: str, suffix: str
) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(NeumetaError, match=rf"x{suffix} {said}"):
        read_weights(path)


def test_weights_of_another_ending_say_which(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2)}
    (tmp_path / "x.pth").write_bytes(save(tensors))
    with pytest.raises(NeumetaError, match="is a safetensors file; rename it"):
        read_weights(tmp_path / "x.pth")
    (tmp_path / "x.safetensors").write_bytes(saved(tensors))
    with pytest.raises(NeumetaError, match=r"is a file of torch.save.*rename it to .pth"):
        read_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize("content", [b"\x08\x07\x12\x07pytorch", b"hello world", b"\x00" * 64])
def test_what_is_no_pickle_is_not_taken_for_code(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(NeumetaError, match=r"is no file of torch.save \(it begins with"):
        read_weights(tmp_path / "x.pth")


@given(st.dictionaries(st.text(min_size=1), st.integers(0, 300), min_size=1, max_size=3))
def test_no_file_of_weights_is_taken_for_another(
    tmp_path_factory: pytest.TempPathFactory, sizes: dict[str, int]
) -> None:
    """Whatever the length of its header, by which it begins."""
    folder = tmp_path_factory.mktemp("files")
    tensors = {
        name.encode("utf-8", "replace").decode(): torch.ones(n)
        for n in sizes.values()
        for name in sizes
    }
    save_file({n: t.clone() for n, t in tensors.items()}, folder / "x.safetensors")
    for zipped in (True, False):
        torch.save(tensors, folder / "x.pth", _use_new_zipfile_serialization=zipped)
        assert read_weights(folder / "x.pth").tensors.keys() == tensors.keys()
    assert read_weights(folder / "x.safetensors").tensors.keys() == tensors.keys()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (torch.optim.SGD([torch.ones(1)]).state_dict(), "no state dict of tensors, but state, par"),
        ({"models": [{"a.b": torch.ones(1)}]}, "no state dict of tensors, but models; save model"),
        ([{"a.b": torch.ones(1)}], "holds a list, not a state dict of tensors; save model"),
        ({}, "no state dict of tensors; save model"),
    ],
)
def test_a_file_without_a_state_dict_says_what_it_has(
    tmp_path: Path, content: object, said: str
) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(NeumetaError, match=said):
        read_weights(tmp_path / "x.pth")


def test_variances_below_zero_are_refused(tmp_path: Path) -> None:
    state = trained(plain).state_dict()
    state["norm.running_var"][1] = -0.1
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(NeumetaError, match=r"norm.running_var has 1 negative values"):
        opened(tmp_path / "x.pth", plain)


def test_states_that_layers_keep_beside_their_weights_are_left_out(tmp_path: Path) -> None:
    model = trained(plain)
    state = {**model.state_dict(), "conv._extra_state": torch.zeros(4, dtype=torch.uint8)}
    torch.save(state, tmp_path / "x.pth")
    assert same(opened(tmp_path / "x.pth", plain), model)


@pytest.mark.parametrize("name", ["x.onnx", "x.pt2", "x.ONNX"])
def test_programs_are_told_as_programs(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x08\x07")
    with pytest.raises(NeumetaError, match="is a program, not weights; give the network"):
        read_weights(tmp_path / name)
