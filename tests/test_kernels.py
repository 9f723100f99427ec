"""Convolutions stay away from kernels that are wrong, and compute what they should."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import REPOSITORY, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_fits import TINY, prepared, recipe_for
from torch import nn

from neumeta_cli.distill import Fitter
from neumeta_cli.export import export_network, load
from neumeta_cli.kernels import SafeConvolutions
from neumeta_cli.manifold import KINDS
from neumeta_cli.tasks import load_task
from neumeta_cli.training import train_network
from neumeta_cli.training.settings import TrainSection

FUZZ = REPOSITORY / "tests" / "benchmarks" / "convolutions.py"


def fuzz(path: Path, *options: str) -> list[dict[str, object]]:
    """Try the shapes that are known to fail, each in a forked process of a fresh one."""
    command = [sys.executable, str(FUZZ), "--known", "--json", str(path), *options]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    failed: list[dict[str, object]] = json.loads(path.read_text("utf-8"))["failed"]
    return failed


@pytest.mark.slow
def test_no_shape_of_a_fit_reaches_the_faulty_kernel(tmp_path: Path) -> None:
    assert not fuzz(tmp_path / "found.json", "--guarded")


@pytest.mark.slow
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX2", reason="the fault is in kernels for AVX2"
)
def test_the_library_still_has_the_fault(tmp_path: Path) -> None:
    """When this fails, oneDNN has mended it: SafeConvolutions can go, and this file with it."""
    assert fuzz(tmp_path / "found.json")


@settings(max_examples=60, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 2)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.one_of(
        st.just("valid"), st.integers(0, 2), st.tuples(st.integers(0, 2), st.integers(0, 2))
    ),
    pixels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    bias=st.booleans(),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_the_way_round_is_exact(channels, stride, padding, pixels, bias, layout) -> None:
    """In float64, which the faulty kernel does not serve: outputs and all gradients."""
    inputs, outputs, groups = channels
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.contiguous(memory_format=layout) if len(shape) == 4 else values

    leaves = [drawn(2, inputs * groups, *pixels), drawn(outputs * groups, inputs, 1, 1)]
    leaves += [drawn(outputs * groups)] if bias else []
    for leaf in leaves:
        leaf.requires_grad_()
    found = []
    for mode in (torch.enable_grad(), SafeConvolutions()):
        with mode:
            made = F.conv2d(*leaves, stride=stride, padding=padding, groups=groups)
        found.append([made, *torch.autograd.grad((made**2).sum(), leaves)])
    for one, other in zip(*found, strict=True):
        assert one.shape == other.shape
        assert relative_error(one, other) < 1e-12


def test_modules_and_their_other_arguments_pass() -> None:
    layers = [
        nn.Conv2d(3, 4, 1, stride=2),
        nn.Conv2d(3, 4, 1, stride=(2, 1), padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, stride=2, padding=1, dilation=2, groups=4),
        nn.Conv2d(4, 8, 3, padding="same"),
        nn.Conv2d(9, 8, 1, stride=2),
    ]
    for layer in layers:
        x = torch.randn(2, layer.in_channels, 8, 8)
        with SafeConvolutions():
            made = layer(x)
        torch.testing.assert_close(made, layer(x))


@pytest.mark.slow
@pytest.mark.kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_fit_of_each_kind_learns_and_its_export_is_what_was_sampled(
    build, image_folder, tmp_path: Path, kind: str, precision: str
) -> None:
    """Of all of a residual network, from 16 channels down to 4; one step where it takes long."""
    images = 40 if precision == "bfloat16" else 120
    recipe = recipe_for(
        image_folder,
        model={"input_size": [3, 32, 32]},
        scope="all",
        norm={"fold": False, "images": 16},
        inr={"kind": kind},
        fit={"epochs": 1, "precision": precision, "gamma": [0.7, 0.8], "anchors": [0.75]},
    )
    manifold, tensors, task = prepared(build, recipe)
    task = replace(task, train=task.train.take(images, seed=0))
    first = {n: t.clone() for n, t in manifold.inr.state_dict().items()}
    result = Fitter(manifold, tensors, task, recipe).run()
    fitted = manifold.inr.state_dict()
    assert result.skipped == 0
    assert any(not torch.equal(t, first[n]) for n, t in fitted.items())
    assert all(bool(t.isfinite().all()) for t in fitted.values())
    made = export_network(manifold, tmp_path / "small.pt", 0.25)
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(load(made.path, trust_code=True)(x), made.model(x))


@pytest.mark.slow
@pytest.mark.kernels
def test_training_learns(build, image_folder) -> None:
    model, _ = build(TINY)
    task = load_task(recipe_for(image_folder).data, model, (3, 32, 32))
    before = task.measure(model)["top-1"]
    train = TrainSection(epochs=4, batch_size=20, precision="float32", learning_rate=3e-3)
    assert task.measure(train_network(model, task, train))["top-1"] > before + 0.2


@pytest.mark.slow
@pytest.mark.kernels
def test_training_takes_steps_in_bfloat16(build, image_folder) -> None:
    model, _ = build(TINY)
    first = {n: t.clone() for n, t in model.named_parameters()}
    task = load_task(recipe_for(image_folder).data, model, (3, 32, 32))
    task = replace(task, train=task.train.take(16, seed=0))
    trained = train_network(model, task, TrainSection(epochs=1, precision="bfloat16"))
    moved = {n: t for n, t in trained.named_parameters() if not torch.equal(t, first[n])}
    assert len(moved) == len(first)
    assert all(bool(t.isfinite().all()) for t in moved.values())
