"""Memory: what is kept has a limit, and what a step takes is known before it is taken."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_fits import TINY, prepared, recipe_for
from torch import nn

from neumeta_cli import hardware
from neumeta_cli.cache import Cache, held_bytes
from neumeta_cli.direct import foresee, job_of
from neumeta_cli.distill import Fitter
from neumeta_cli.errors import NeumetaError
from neumeta_cli.recipe import load_recipe
from neumeta_cli.tasks import load_task
from neumeta_cli.training import kept as kept_module
from neumeta_cli.training import train_network
from neumeta_cli.training.footprint import Line, Outlook, check_fits, step_bytes
from neumeta_cli.training.kept import KeptMemory
from neumeta_cli.training.settings import TrainSection

GIB = 1 << 30


@given(st.lists(st.integers(0, 12), max_size=40), st.integers(1, 6), st.integers(1, 80))
def test_caches_hold_the_values_last_used_within_both_limits(keys, most, most_bytes) -> None:
    cache: Cache[np.ndarray] = Cache(most, most_bytes)
    for number, key in enumerate(keys):
        value = cache.get(key, lambda key=key: np.zeros(key, dtype=np.uint8))
        assert len(value) == key
        kept = [len(v) for v in cache]
        assert kept[-1] == key
        assert len(kept) <= most
        assert sum(kept) <= most_bytes or len(kept) == 1
        assert cache.bytes == sum(kept)
        recent = list(dict.fromkeys(reversed(keys[: number + 1])))
        assert kept[::-1] == recent[: len(kept)]


def test_bytes_of_what_is_kept() -> None:
    arrays = {"a": [torch.zeros(3), None], "b": (np.zeros(2),)}
    assert held_bytes(arrays) == 12 + 16
    large, small = nn.Sequential(*(nn.ReLU() for _ in range(9))), nn.Sequential(nn.ReLU())
    assert held_bytes(large) == 5 * held_bytes(small) > 0


def test_freed_memory_is_given_back_when_more_is_kept_than_steps_need(monkeypatch) -> None:
    now, given = [100], []
    monkeypatch.setattr(kept_module, "resident_bytes", lambda: now[0] << 20)

    def give_back() -> None:
        given.append(now[0])
        now[0] = 100

    monkeypatch.setattr(kept_module, "give_back_memory", give_back)
    memory = KeptMemory()
    for resident in (1100, 1100, 1200):  # 1,000 MiB in a step, then holes
        memory.before()
        now[0] = resident
        memory.after()
    assert given == [100]
    now[0] = 1400
    memory.after()
    assert given == [100, 1400]
    memory.before()
    now[0] = 1800  # a larger network than any before it: the new measure
    memory.after()
    memory.before(step=False)  # an evaluation begins with nothing kept, and leaves nothing
    now[0] = 1700
    memory.after(step=False)
    assert given == [100, 1400, 1800, 1700]
    memory.before()
    now[0] = 1500  # what the next step takes tells nothing new
    memory.after()
    now[0] = 150
    memory.before(step=False)  # so little may stay
    assert len(given) == 4


@pytest.mark.parametrize(
    ("of", "controllers", "folder", "files"),
    [
        ("0::/job/own", "", "job", ("memory.max", "memory.current", "inactive_file")),
        (
            "4:memory:/job/own",
            "memory",
            "job",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_limits_of_control_groups_count(tmp_path: Path, of, controllers, folder, files) -> None:
    """Also those of a group around the process's own."""
    own = tmp_path / "cgroup"
    own.write_text(f"3:cpuset:/\n{of}\n")
    around = tmp_path / controllers / folder
    (around / "own").mkdir(parents=True)
    (around / "own" / files[0]).write_text("max\n")
    assert hardware._left_in_groups(own, tmp_path) == []
    for name, text in zip(files, ("1000", "700"), strict=False):
        (around / name).write_text(text + "\n")
    (around / "memory.stat").write_text(f"anon 5\n{files[2]} 100\n")
    assert hardware._left_in_groups(own, tmp_path) == [400]


def test_available_memory_is_told() -> None:
    left = hardware.available_bytes()
    assert left is None or 0 < left < 1 << 50


def hinted_recipe(image_folder: Path, **fit: object):
    return recipe_for(
        image_folder,
        model={"input_size": [3, 32, 32]},
        scope="all",
        norm={"fold": False, "images": 8},
        inr={"kind": "selected"},
        loss={"recon": 0.0, "reg": 0.0, "distill": 1.0, "hint": 1.0},
        fit={"mixed": 0.5, "anchors": [0.5], "update": 1.0} | fit,
    )


def test_what_a_step_takes_is_found_on_a_few_images(build, image_folder) -> None:
    stepper = Fitter(*prepared(build, recipe := hinted_recipe(image_folder)), recipe).stepper
    before = stepper.choices.get_state()
    found = step_bytes(stepper.footprint, "float32", 40)
    assert torch.equal(before, stepper.choices.get_state())
    saved = stepper.footprint("float32", 40)
    assert found.constant + 40 * found.each == pytest.approx(saved, rel=0.03)
    activations = 40 * 16 * 32 * 32 * 4  # of one layer of the widest stage
    assert 4 * activations < saved < 60 * activations


def test_a_teachers_features_take_little_memory(build, image_folder) -> None:
    recipe = hinted_recipe(image_folder)
    fitter = Fitter(*prepared(build, recipe), recipe)
    batch = fitter.stepper.source.batch(torch.arange(8), torch.Generator())
    assert batch.hints
    for rows in batch.hints.values():
        assert rows.untyped_storage().nbytes() == rows.nbytes <= 8 * 64 * rows.shape[-1] * 4


def test_a_batch_in_parts_gives_the_step_of_the_whole(build, image_folder) -> None:
    """Of a network without batch norms; parts differ in size: 40 images in three."""
    steps = []
    for parts in (1, 3):
        recipe = hinted_recipe(image_folder, accumulate=parts)
        recipe = recipe.model_copy(update={"norm": recipe.norm.model_copy(update={"fold": True})})
        fitter = Fitter(*prepared(build, recipe), recipe)
        told = fitter.stepper.take(torch.arange(40))
        gradients = [p.grad for p in fitter.manifold.inr.parameters() if p.grad is not None]
        steps.append((told, gradients, fitter.stepper.choices.get_state()))
    (whole, expected, state), (split, found, later) = steps
    assert split == pytest.approx(whole, rel=1e-3)
    assert torch.equal(state, later)
    assert len(found) == len(expected) > 0
    for mine, theirs in zip(found, expected, strict=True):
        assert float((mine - theirs).norm()) <= 1e-3 * float(theirs.norm()) + 1e-7


def test_steps_that_memory_does_not_hold_are_refused_with_what_would_fit() -> None:
    needed = Line(0.0, GIB / 10)
    check_fits(needed, 32, 32, 4 * GIB, "fit", True)
    check_fits(needed, 320, 320, None, "fit", True)
    with pytest.raises(NeumetaError) as refused:
        check_fits(needed, 32, 32, 2 * GIB, "fit", True)
    assert str(refused.value) == (
        "a step on 32 images takes about 3.5 GiB of memory, and 2.0 GiB are free; set "
        "fit.batch_size=16 (about 1.8 GiB), or fit.accumulate=2 (the same batch in parts)"
    )
    with pytest.raises(NeumetaError, match=r"train\.batch_size=2 \(about 225 MiB\)$"):
        check_fits(needed, 32, 32, GIB // 4, "train", False)
    with pytest.raises(NeumetaError, match="even one image is too much"):
        check_fits(replace(needed, constant=GIB), 32, 32, GIB // 4, "fit", True)


def test_time_and_memory_are_told_in_one_line(build, image_folder) -> None:
    known = Outlook("float32", 1200, 0.25, 3 * GIB, GIB, 8 * GIB)
    assert known.told() == (
        "1,200 steps of about 0.25 s: 5 min; memory: about 4.0 GiB, 3.0 GiB in a step; 8.0 GiB free"
    )
    unknown = replace(known, step_seconds=None, free=None)
    assert unknown.told() == "memory: about 4.0 GiB, 3.0 GiB in a step"
    for epochs, tried in ((2, False), (20, True)):  # three steps each
        recipe = recipe_for(image_folder, fit={"epochs": epochs})
        outlook = Fitter(*prepared(build, recipe), recipe).loop.prepare()
        assert (outlook.step_seconds is not None) == tried
        assert outlook.steps == 3 * epochs


def test_a_fit_and_a_training_stop_before_their_first_step(
    build, image_folder, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("neumeta_cli.training.loop.free_bytes", lambda device: 16 << 20)
    recipe = hinted_recipe(image_folder)
    fitter = Fitter(*prepared(build, recipe), recipe)
    with pytest.raises(NeumetaError, match=r"16 MiB are free; set fit\.batch_size=\d+ .*accumul"):
        fitter.run()
    model, _ = build(TINY)
    task = load_task(recipe.data, model, (3, 32, 32))
    with pytest.raises(NeumetaError, match=r"are free; set train\.batch_size=\d+ \(about [^)]*\)$"):
        train_network(model, task, TrainSection(epochs=1, batch_size=40))


def test_a_forecast_counts_steps_and_memory(build, tmp_path: Path) -> None:
    file = tmp_path / "lenet.pth"
    torch.save(build("lenet_digits")[0].state_dict(), file)
    recipe = load_recipe("digits_lenet", [f"model.checkpoint={file}", "fit.epochs=7"])
    found = foresee(job_of(recipe))
    assert found.steps == 7 * (1438 // recipe.fit.batch_size)
    assert found.seconds > 0
    assert hardware.resident_bytes() < 1.5 * found.memory
