"""Networks that take images of one size alone, which their files do not say."""

import json
from pathlib import Path

import pytest
import torch

import neumeta_cli
from neumeta_cli.checkpoint import load_checkpoint, resolve

SOURCE = """
from torch import nn
def make():
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(800, 10)
    return nn.Sequential(*layers)
"""
SIZE = "3,12,12"  # 10×10 pixels of 8 channels are flattened


@pytest.fixture
def fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    (tmp_path / "fixed_net.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    torch.save(resolve("fixed_net:make").build("cpu").state_dict(), "net.pth")
    return ["net.pth", "--arch", "fixed_net:make"]


@pytest.mark.slow
def test_a_size_goes_through_all_commands(neumeta, fixed, image_folder: Path) -> None:
    size, data = ["--input-size", SIZE], ["--data", image_folder]
    traced = neumeta("trace", *fixed, *size)
    assert "--input-size 3,12,12" in traced.stderr, traced
    assert neumeta("permute", *fixed, *size, "-o", "p.safetensors").code == 0
    assert load_checkpoint(Path("p.safetensors")).input_size == (3, 12, 12)
    short = ["--epochs", "1", "--device", "cpu", "--set", "fit.limit=8"]
    short += ["--set", "fit.precision=float32"]
    for number, source in enumerate(([*fixed, *size], ["p.safetensors"])):
        fitted = neumeta("distill", *source, *data, *short, "-o", f"m{number}.safetensors")
        assert fitted.code == 0, fitted
        loaded = neumeta_cli.load(f"m{number}.safetensors", trust_code=True)
        assert loaded.input_size == (3, 12, 12)
    measured = neumeta("eval", *fixed, *size, *data, "--no-latency", "--json", "-")
    again = neumeta("eval", "p.safetensors", *data, "--no-latency", "--json", "-")
    both = [json.loads(result.stdout)["rows"][0]["metrics"] for result in (measured, again)]
    assert both[0] == both[1]
    refused = neumeta("eval", "m0.safetensors", *size, *data)
    assert refused.code == 1
    assert "knows the size of its input" in refused.stderr


def test_a_size_that_does_not_go_is_refused(neumeta, fixed, image_folder: Path) -> None:
    asked = ["distill", *fixed, "--data", image_folder]
    unsized = neumeta(*asked)
    assert unsized.code == 1
    assert "give the size with --input-size C,H,W" in unsized.stderr
    for text in ("12,12", "3,12,0", "3,a,12"):
        refused = neumeta(*asked, "--input-size", text)
        assert refused.code == 1
        assert f"--input-size {text}: give channels, height and width" in refused.stderr


def test_permuting_does_not_make_a_librarys_usual_size_that_of_the_network(
    neumeta, build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fit looks at which size the network knows its images, unless the file says it."""
    monkeypatch.chdir(tmp_path)
    torch.save(build("timm/test_resnet")[0].state_dict(), "net.pth")
    found = {}
    for name, said in (("bare", []), ("told", ["--input-size", "3,32,32"])):
        target = f"{name}.safetensors"
        made = neumeta(
            *("permute", "net.pth", "--arch", "timm/test_resnet", "--solver", "identity"),
            *(*said, "-o", target),
        )
        assert made.code == 0, made
        found[name] = load_checkpoint(Path(target)).weights.metadata.get("input_size")
    assert found == {"bare": None, "told": [3, 32, 32]}
