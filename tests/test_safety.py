"""A fit that is killed or stopped at any moment goes on as if nothing had happened."""

import random
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from programs import Program
from tiny_fits import TINY

from neumeta_cli.checkpoint import read_weights
from neumeta_cli.errors import StoppedRunError
from neumeta_cli.pipeline import MANIFOLD_FILE, PERMUTED_FILE
from neumeta_cli.training.journal import STATE_FILE, Journal

pytestmark = pytest.mark.slow

EPOCHS = 3  # of ten steps
RECIPE = [
    *("-r", "digits_lenet", "--device", "cpu", "--set", f"fit.epochs={EPOCHS}"),
    *("--set", "fit.limit=640", "--set", "fit.save_steps=4", "--set", "noise.samples=2"),
    *("--set", "fit.precision=float32"),  # two fits may find another one quicker
    # What comes before and after the fit takes most of the time, and is not what is stopped here.
    *("--set", "permute.solver=identity", "--set", "eval.gammas=[0.5]"),
]


# The program itself, but it waits for a signal after its second save: no fit is over before a test
# that a busy machine delays has stopped it.
HELD = """
import os, signal
from pathlib import Path
from neumeta_cli.cli import main
from neumeta_cli.training.journal import Journal
reading, writing = os.pipe()
os.set_blocking(writing, False)
signal.set_wakeup_fd(writing)  # whatever signal comes is a byte to read, at once or later
signal.signal(signal.SIGUSR1, lambda *_: None)
save, left = Journal.save, 2
def save_and_wait(self, state):
    global left
    save(self, state)
    left -= 1
    if left == 0:
        Path("held").touch()
        os.read(reading, 1)
Journal.save = save_and_wait
main()
"""


def begin(folder: Path, *extra: str, held: bool = False) -> Program:
    return start(folder.parent, "fit", "--run", folder, *extra, held=held)


def start(folder: Path, *arguments: object, held: bool = False) -> Program:
    program = ("-c", HELD) if held else ("-m", "neumeta_cli")
    return Program(*program, *arguments, *RECIPE, cwd=folder)


def wait_for_a_save(process: Program, state: Path, since: float) -> None:
    """Until the state is written after ``since``, or the fit is over."""
    while process.poll() is None:
        if state.exists() and state.stat().st_mtime > since:
            return
        time.sleep(0.01)


def wait_until_held(process: Program, folder: Path) -> None:
    while process.poll() is None and not (folder / "held").exists():
        time.sleep(0.01)


def fitted(folder: Path) -> dict[str, torch.Tensor]:
    weights = read_weights(folder / MANIFOLD_FILE)
    return {n: t for n, t in weights.tensors.items() if n.startswith("inr.")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fit that nothing disturbed."""
    folder = tmp_path_factory.mktemp("safety") / "whole"
    process = begin(folder)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return folder


def assert_same_weights(one: Path, other: Path) -> None:
    left, right = fitted(one), fitted(other)
    assert list(left) == list(right)
    assert all(torch.equal(left[name], right[name]) for name in left)


def assert_same_bits(one: Path, other: Path) -> None:
    assert_same_weights(one, other)
    lines = [(f / "metrics.jsonl").read_text().count("\n") for f in (one, other)]
    assert lines == [EPOCHS, EPOCHS]


def test_killed_and_stopped_fits_end_with_the_same_bits(whole: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    rng = random.Random(0)
    stops = [signal.SIGSEGV, signal.SIGINT, signal.SIGKILL]
    told = {  # by the fit that goes on
        signal.SIGSEGV: "the last run died by a fault: Segmentation fault in ",
        signal.SIGINT: "",
        signal.SIGKILL: "the last run was killed from outside",
    }
    before = None
    for place, number in enumerate(stops):
        since = time.time()
        process = begin(cut, *(["--resume"] if place else []), held=True)
        wait_for_a_save(process, cut / "state.pt", since)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(number)
        _, errors = process.communicate()
        assert process.returncode != 0, "the fit was over before it could be stopped"
        assert_tells(errors, told, before)
        before = number
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert f"resume with: neumeta fit --run {cut} --resume" in errors
            assert "Traceback" not in errors
    process = begin(cut, "--resume")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_tells(errors, told, before)
    assert_same_bits(whole, cut)
    assert "Segmentation fault" in (cut / "died.log").read_text("utf-8")
    assert not (cut / "running.log").exists()


def assert_tells(errors: str, told: dict[int, str], before: int | None) -> None:
    """Of how the run before ended, and of no other way."""
    for number, words in told.items():
        assert not words or (words in errors) == (number == before)


def test_two_fits_in_one_folder_are_refused(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = begin(folder, held=True)
    wait_until_held(first, tmp_path)
    state = (folder / STATE_FILE).read_bytes()
    for extra in ([], ["--resume"]):
        second = begin(folder, *extra)
        _, errors = second.communicate()
        assert second.returncode == 1
        assert f"error: another process is at work in {folder}" in errors
    assert (folder / STATE_FILE).read_bytes() == state
    first.send_signal(signal.SIGUSR1)
    _, errors = first.communicate()
    assert first.returncode == 0, errors
    assert_same_bits(whole, folder)


def test_a_stopped_distill_goes_on_to_the_same_bits(whole: Path, tmp_path: Path) -> None:
    """Of the permuted checkpoint that the fit left, so that both learn the same."""
    arguments: list[object] = ["distill", whole / PERMUTED_FILE, "-o", MANIFOLD_FILE]
    kept = tmp_path / f"{MANIFOLD_FILE}.training"
    for number in (signal.SIGINT, signal.SIGKILL):
        since = time.time()
        process = start(tmp_path, *arguments, held=True)
        wait_for_a_save(process, kept / STATE_FILE, since)
        process.send_signal(number)
        _, errors = process.communicate()
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        assert ("the same command with --resume" in errors) == (number == signal.SIGINT)
        assert not (tmp_path / MANIFOLD_FILE).exists()
        arguments = [*arguments[:4], "--resume"]
    process = start(tmp_path, *arguments)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_same_weights(whole, tmp_path)
    assert not kept.exists()


def test_a_full_disk_stops_a_fit_and_leaves_its_last_state(whole: Path, tmp_path: Path) -> None:
    """Files of this process may grow no more, as on a full disk, after its second save."""
    full = tmp_path / "full"
    process = begin(full, held=True)
    wait_until_held(process, tmp_path)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (256, resource.RLIM_INFINITY))
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate()
    assert process.returncode == 1, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: cannot write")
    assert last.endswith(f"resume with: neumeta fit --run {full} --resume")
    assert "Traceback" not in errors
    assert not list(full.glob(".*partial*"))
    assert torch.load(full / "state.pt", weights_only=True)["step"] > 0
    process = begin(full, "--resume")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_same_bits(whole, full)


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_vanish_stop_a_fit_and_leave_its_last_state(
    neumeta, build, image_folder, tmp_path: Path, monkeypatch, workers: int
) -> None:
    """Images that do not fit in memory are read from their folder, by a worker a little ahead."""
    model, _ = build(TINY)
    torch.save(model.state_dict(), tmp_path / "resnet.pt")
    data, recipe = tmp_path / "data", tmp_path / "tiny.yaml"
    shutil.copytree(image_folder, data)
    fields = {
        "name": "tiny",
        "model": {
            "arch": TINY,
            "checkpoint": "resnet.pt",
            "input_size": [3, 16, 16],
        },
        "data": {"root": str(data), "in_memory": 0, "workers": workers},
        "inr": {"kind": "selected"},
        "noise": {"samples": 1},
        "fit": {
            "epochs": 2,
            "batch_size": 40,
            "save_steps": 2,
            "precision": "float32",
            "start_images": 0,
        },
        "eval": {"gammas": [0.5], "watch": 8},
    }
    recipe.write_text(yaml.safe_dump(fields), encoding="utf-8")

    save, saved = Journal.save, []

    def save_and_lose_data(self: Journal, state: dict) -> None:
        save(self, state)
        saved.append(state["step"])
        shutil.rmtree(data / "train", ignore_errors=True)

    monkeypatch.setattr(Journal, "save", save_and_lose_data)
    result = neumeta("fit", "-r", recipe, "--run", tmp_path / "run")
    assert result.code == 1
    assert saved == [2] or (workers and saved == [2, 3])
    last = result.stderr.strip().splitlines()[-1]
    assert "cannot read image" in last
    assert "--resume" in last
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == saved[-1]
    shutil.rmtree(data)
    shutil.copytree(image_folder, data)
    monkeypatch.setattr(Journal, "save", save)
    again = neumeta("fit", "-r", recipe, "--run", tmp_path / "run", "--resume")
    assert again.code == 0, again.stderr


def test_a_fit_of_another_checkpoint_is_not_gone_on_with(
    neumeta, build, image_folder, tmp_path: Path, monkeypatch
) -> None:
    for seed, name in enumerate(("one.pt", "other.pt")):
        model, _ = build("cifar_resnet20", seed)
        torch.save(model.state_dict(), tmp_path / name)
    options = (
        "-r",
        "cifar10_resnet20_all",
        "--data",
        image_folder,
        "-o",
        tmp_path / "out.safetensors",
    )
    options += "--set", "fit.save_steps=1", "--set", "fit.batch_size=20"
    options += "--set", "fit.precision=float32"

    def save_and_stop(self: Journal, state: dict) -> None:
        save(self, state)
        raise StoppedRunError("stopped")

    save = Journal.save
    monkeypatch.setattr(Journal, "save", save_and_stop)
    stopped = neumeta("distill", tmp_path / "one.pt", *options)
    assert stopped.code == 130
    monkeypatch.setattr(Journal, "save", save)
    other = neumeta("distill", tmp_path / "other.pt", *options, "--resume")
    assert other.code == 1
    assert "of another recipe or checkpoint" in other.stderr
