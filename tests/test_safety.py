"""A fit that is killed or stopped at any moment goes on as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from neumeta_cli.checkpoint import read_weights

FIT = [
    *(sys.executable, "-m", "neumeta_cli", "fit", "-r", "digits_lenet", "--device", "cpu"),
    *("--set", "fit.epochs=12", "--set", "fit.save_steps=7", "--set", "noise.samples=2"),
    *("--set", "inr.hidden=16", "--run"),
]


def begin(folder: Path, *extra: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(
        [*FIT, str(folder), *extra],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=folder.parent,
    )


def wait_for_a_save(process: subprocess.Popen[str], state: Path, since: float) -> None:
    """Until the state is written after ``since``, or the fit is over."""
    while process.poll() is None:
        if state.exists() and state.stat().st_mtime > since:
            return
        time.sleep(0.01)


def fitted(folder: Path) -> dict[str, torch.Tensor]:
    weights = read_weights(folder / "manifold.safetensors")
    return {n: t for n, t in weights.tensors.items() if n.startswith("inr.")}


def test_killed_and_stopped_fits_end_with_the_same_bits(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = begin(whole)
    _, errors = process.communicate()
    assert process.returncode == 0, errors

    rng = random.Random(0)
    stops = [signal.SIGKILL, signal.SIGINT, signal.SIGKILL]
    for place, number in enumerate(stops):
        since = time.time()
        process = begin(cut, *(["--resume"] if place else []))
        wait_for_a_save(process, cut / "state.pt", since)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(number)
        _, errors = process.communicate()
        assert process.returncode != 0, "the fit was over before it could be stopped"
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert f"go on with: neumeta fit --recipe digits_lenet --run {cut} --resume" in errors
            assert "Traceback" not in errors
    process = begin(cut, "--resume")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    one, two = fitted(whole), fitted(cut)
    assert list(one) == list(two)
    assert all(torch.equal(one[name], two[name]) for name in one)
    lines = [(f / "metrics.jsonl").read_text().count("\n") for f in (whole, cut)]
    assert lines == [12, 12]
