"""The fit: frozen features, losses, what a step trains, and resuming."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_fits import prepared, recipe_for
from torch import Tensor, nn

from neumeta_cli.data.augmentation import augment
from neumeta_cli.data.settings import DataSection
from neumeta_cli.distill import Fitter
from neumeta_cli.distill.draws import Drawn
from neumeta_cli.distill.features import FeatureSource, ImageSource, _best_layout
from neumeta_cli.distill.frozen import find_split, run_live
from neumeta_cli.errors import NeumetaError
from neumeta_cli.tasks import load_task
from neumeta_cli.training import METRICS_FILE, Journal, Place
from neumeta_cli.training.loop import BAD_STEPS


@pytest.mark.parametrize("fold", [True, False])
def test_the_live_part_alone_gives_what_the_whole_network_gives(build, image_folder, fold) -> None:
    manifold, tensors, task = prepared(build, recipe_for(image_folder, norm={"fold": fold}))
    x = task.inputs(task.train, torch.arange(5), None)
    live = {s.name for s in manifold.specs}
    split = find_split(manifold.frame.model, tensors, live, x)
    assert split is not None
    assert [tuple(f.shape) for f in split.features] == [(5, 64, 4, 4)]  # the last block's input
    again = run_live(manifold.frame.model, tensors, split, split.features, (3, 16, 16))
    assert torch.equal(again, split.output)


def test_nothing_is_frozen_where_everything_morphs(build, image_folder) -> None:
    recipe = recipe_for(image_folder, scope="all", fit={"views": 1})
    manifold, tensors, task = prepared(build, recipe)
    x = task.inputs(task.train, torch.arange(2), None)
    live = {s.name for s in manifold.specs}
    assert find_split(manifold.frame.model, tensors, live, x) is None
    fitter = Fitter(manifold, tensors, task, recipe)
    assert isinstance(fitter.stepper.source, ImageSource)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["paper", "all"])
@pytest.mark.parametrize("kind", ["mlp", "factorised"])
def test_a_step_lowers_the_loss_of_its_batch(build, image_folder, kind: str, scope: str) -> None:
    recipe = recipe_for(
        image_folder,
        scope=scope,
        norm={"fold": False},
        inr={"kind": kind},
        fit={"views": 1, "update": 1.0, "gamma": [0.5, 0.5], "epochs": 40},
        noise={"channels": 0.0, "sizes": 0.0},
    )
    fitter = Fitter(*prepared(build, recipe), recipe)
    index = torch.arange(40)
    losses = [fitter.stepper.take(index)["task"] for _ in range(12)]
    assert min(losses[-3:]) < losses[0]


def test_a_feature_source_draws_every_view(build, image_folder) -> None:
    recipe = recipe_for(image_folder, fit={"views": 3}, loss={"distill": 1.0})
    fitter = Fitter(*prepared(build, recipe), recipe)
    source = fitter.stepper.source
    assert isinstance(source, FeatureSource)
    index = torch.zeros(60, dtype=torch.int64)
    batch = source.batch(index, torch.Generator().manual_seed(0))
    assert len({tuple(f.flatten().tolist()) for f in batch.inputs[0]}) > 1
    assert batch.teacher is not None
    assert batch.teacher.shape == (60, 10)


def test_too_many_features_are_refused_with_a_way_out(build, image_folder, monkeypatch) -> None:
    monkeypatch.setattr("neumeta_cli.distill.features.FEATURE_BYTES", 3 << 20)
    recipe = recipe_for(image_folder, model={"input_size": [3, 32, 32]}, fit={"views": 9})
    with pytest.raises(NeumetaError, match="use at most 3 views"):
        Fitter(*prepared(build, recipe), recipe)


def test_losses_have_the_papers_weights(build, image_folder) -> None:
    """λ1 ‖W0‖²‖W − W0‖² per tensor at full width, λ2 ‖W‖² at every width."""
    recipe = recipe_for(image_folder, fit={"update": 1.0}, inr={"kind": "mlp"})
    fitter = Fitter(*prepared(build, recipe), recipe)
    assert (recipe.loss.recon, recipe.loss.reg) == (1.0, 1e-4)
    generated = fitter.manifold.generate(fitter.stepper.widths.full)
    parts = fitter.stepper._weight_loss(Drawn(fitter.stepper.widths.full, 1.0), generated)
    recon = sum(
        (w0**2).sum() * ((generated[n] - w0) ** 2).sum()
        for n, w0 in fitter.stepper.original.items()
    )
    torch.testing.assert_close(parts["recon"], recon)
    torch.testing.assert_close(parts["reg"], 1e-4 * sum((w**2).sum() for w in generated.values()))
    half = fitter.manifold.frame.sizes(0.5)
    assert "recon" not in fitter.stepper._weight_loss(
        Drawn(half, 1.0), fitter.manifold.generate(half)
    )


def test_a_step_trains_a_random_subset_and_widths_stay_in_range(build, image_folder) -> None:
    recipe = recipe_for(image_folder, fit={"gamma": [0.1, 0.4]})
    fitter = Fitter(*prepared(build, recipe), recipe)
    subsets = {frozenset(fitter.stepper._draw_trained(warm=False)) for _ in range(20)}
    assert {len(s) for s in subsets} == {2}  # half of the four tensors
    assert len(subsets) > 1
    drawn = [fitter.stepper.widths.draw(fitter.stepper.choices) for _ in range(200)]
    sizes = [only["layer3.1.conv1"] for ((only, *_),) in drawn]
    assert min(sizes) >= round(0.6 * 64)
    assert max(sizes) <= round(0.9 * 64)


class Viewing(nn.Module):
    """One input channel, for which layouts are the same, and a view of what convolutions give."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 5, 3)
        self.last = nn.Linear(5 * 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu())
        return self.last(x.view(len(x), -1))


def test_channels_go_last_only_where_the_network_runs_so(build) -> None:
    assert _best_layout(Viewing().eval(), torch.randn(2, 1, 8, 8)) == torch.contiguous_format
    model, _ = build("cifar_resnet20")
    assert _best_layout(model.eval(), torch.randn(2, 3, 32, 32)) == torch.channels_last


def test_a_fit_goes_on_at_another_rate(build, image_folder, tmp_path: Path) -> None:
    fit = {"save_steps": 1, "epochs": 4}
    recipe = recipe_for(image_folder, inr={"kind": "selected"}, fit=fit)
    fitter = Fitter(*prepared(build, recipe), recipe, folder=tmp_path)
    fitter.stepper.take(torch.arange(40))
    fitter.loop.step = 1
    fitter.loop._save()
    slower = recipe_for(image_folder, inr={"kind": "selected"}, fit={**fit, "learning_rate": 1e-5})
    again = Fitter(*prepared(build, slower), slower, folder=tmp_path)
    again.loop.resume()
    again.stepper.take(torch.arange(40), again.loop.place)
    rates = [group["lr"] for group in again.stepper.optimizer.param_groups]
    assert all(0 < rate < 1e-5 for rate in rates)


@pytest.mark.parametrize(("total", "full"), [(2000, 100), (1000, 100), (200, 20), (5, 1)])
def test_the_rate_rises_in_a_tenth_of_the_steps_at_most(
    build, image_folder, total: int, full: int
) -> None:
    recipe = recipe_for(image_folder, fit={"rising_steps": 100, "learning_rate": 1.0})
    stepper = Fitter(*prepared(build, recipe), recipe).stepper
    rises = []
    for step in range(full + 1):
        place = Place(step, total)
        stepper._set_rate(place)
        rises.append(stepper.optimizer.param_groups[0]["lr"] / place.decay)
    assert rises == pytest.approx([min(1.0, (step + 1) / full) for step in range(full + 1)])


def test_a_warm_up_fits_the_reconstruction(build, image_folder) -> None:
    recipe = recipe_for(
        image_folder,
        inr={"kind": "mlp", "hidden": 64, "frequencies": 8, "scale": "checkpoint"},
        fit={"warmup_steps": 1000, "epochs": 10, "learning_rate": 3e-3},
        noise={"channels": 0.0, "sizes": 0.0},
    )
    fitter = Fitter(*prepared(build, recipe), recipe)
    steps = [fitter.stepper.take(torch.arange(4)) for _ in range(40)]
    assert all("task" not in step for step in steps)
    assert steps[-1]["recon"] < 0.95 * steps[0]["recon"]


class StoppedError(Exception):
    pass


SHARED_STEPS = {  # everything that a step of the recipe for whole networks draws and remembers
    "scope": "all",
    "inr": {"kind": "selected"},
    "loss": {"distill": 1.0, "hint": 1.0},
    "fit": {"mixed": 0.7, "anchors": [0.25, 0.5], "anchor_shares": [0.5, 1.0]},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "stops"),
    [({}, [1, 3, 4]), ({"fit": {"views": 2}}, [4]), (SHARED_STEPS, [1, 3])],
    ids=["images", "views", "shared steps"],
)
def test_a_resumed_fit_equals_an_uninterrupted_one(
    build, image_folder, tmp_path, fields: dict, stops: list[int]
) -> None:
    """Stopped in the middle of an epoch, at its end, and before anything was saved."""
    base = {"norm": {"fold": False, "images": 8}, "loss": {"distill": 1.0}}
    base["eval"] = {"watch": 8, "watch_gammas": [0.5]}
    fit = {"epochs": 2, "save_steps": 2, "batch_size": 20, "limit": 60, **fields.get("fit", {})}
    recipe = recipe_for(image_folder, **(base | fields | {"fit": fit}))

    def state(
        folder: Path, resume: bool = False, stop_at: int | None = None
    ) -> dict[str, torch.Tensor]:
        folder.mkdir(exist_ok=True)
        manifold, tensors, task = prepared(build, recipe)
        fitter = Fitter(manifold, tensors, task, recipe, folder=folder)
        if stop_at is not None:
            take = fitter.stepper.take

            def stopping(index: torch.Tensor, place: Place) -> dict[str, float] | None:
                if place.step == stop_at:
                    raise StoppedError
                return take(index, place)

            fitter.stepper.take = stopping
        fitter.run(resume)
        return manifold.inr.state_dict()

    def log(folder: Path) -> list[dict[str, object]]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) | {"seconds": 0} for line in lines]

    whole = state(tmp_path / "whole")
    assert len(log(tmp_path / "whole")) == 2
    for stop_at in stops:
        cut = tmp_path / f"cut at {stop_at}"
        with pytest.raises(StoppedError):
            state(cut, stop_at=stop_at)
        resumed = state(cut, resume=True)
        assert all(torch.equal(resumed[name], t) for name, t in whole.items())
        assert log(cut) == log(tmp_path / "whole")


def broken_at(fitter: Fitter, broken: Callable[[int], bool]) -> list[float]:
    """Make the losses of some calls in steps not a number; gives the rates of all such calls."""
    original, rates = fitter.stepper._task_loss, []
    take, steps = fitter.stepper.take, []
    fitter.stepper.take = lambda *args: steps.append(0) or take(*args)

    def loss(*args: Any) -> dict[str, torch.Tensor]:
        if not steps:  # a rehearsal
            return original(*args)
        rates.append(fitter.stepper.optimizer.param_groups[0]["lr"])
        parts = original(*args)
        return {n: p * float("nan") for n, p in parts.items()} if broken(len(rates)) else parts

    fitter.stepper._task_loss = loss
    return rates


@pytest.mark.slow
def test_a_loss_that_is_never_finite_stops_the_fit(build, image_folder) -> None:
    recipe = recipe_for(image_folder, fit={"epochs": 30})
    fitter = Fitter(*prepared(build, recipe), recipe)
    before = {n: t.clone() for n, t in fitter.manifold.inr.state_dict().items()}
    rates = broken_at(fitter, lambda call: True)
    with pytest.raises(
        NeumetaError, match=r"the loss is not finite at .* lower fit\.learning_rate"
    ):
        fitter.run()
    assert len(rates) == 4 * BAD_STEPS  # and three times back, at half the rate each
    starts = rates[::BAD_STEPS]
    assert starts == pytest.approx([starts[0] * 0.5**k for k in range(4)])
    assert all(torch.equal(t, before[n]) for n, t in fitter.manifold.inr.state_dict().items())


def test_a_step_that_is_not_finite_is_left_out(build, image_folder, tmp_path) -> None:
    recipe = recipe_for(image_folder, fit={"epochs": 2})
    fitter = Fitter(*prepared(build, recipe), recipe, folder=tmp_path)
    broken_at(fitter, lambda call: call == 2)
    result = fitter.run()
    assert (result.skipped, result.times_back) == (1, 0)
    assert all(t.isfinite().all() for t in fitter.manifold.inr.state_dict().values())
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [1, 1]


@pytest.mark.slow
def test_a_few_in_a_row_take_the_fit_back(build, image_folder) -> None:
    recipe = recipe_for(image_folder, fit={"epochs": 6, "save_steps": 1})
    fitter = Fitter(*prepared(build, recipe), recipe)
    rates = broken_at(fitter, lambda call: 3 <= call < 3 + BAD_STEPS)
    result = fitter.run()
    assert (result.skipped, result.times_back) == (BAD_STEPS, 1)
    assert result.steps == fitter.loop.total_steps
    assert len(rates) == fitter.loop.total_steps + BAD_STEPS
    assert rates[2 + BAD_STEPS] == pytest.approx(rates[2] / 2)  # the same step again


def test_evaluation_counts_what_is_right(build, image_folder) -> None:
    model, arch = build("cifar_resnet20")
    task = load_task(recipe_for(image_folder).data, model, arch.default_input_size())

    class Oracle(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(answers[: len(x)], 10).float()

    answers = task.test.labels.clone()
    assert task.evaluate(Oracle()) == 1.0
    answers[:3] = (answers[:3] + 1) % 10
    assert task.evaluate(Oracle()) == pytest.approx(27 / 30)


def test_augmentation_flips_and_shifts_and_keeps_the_rest() -> None:
    pixels = torch.arange(2 * 3 * 6 * 6, dtype=torch.uint8).view(2, 3, 6, 6)
    labels = torch.arange(2)
    generator = torch.Generator().manual_seed(0)

    def augmented(**fields: object) -> torch.Tensor:
        changed, same = augment(pixels, labels, DataSection(**fields), generator)
        assert torch.equal(same, labels)
        return changed

    assert augmented() is pixels
    flipped = [augmented(flip=True) for _ in range(20)]
    kinds = {torch.equal(f[0], pixels[0]) for f in flipped}
    assert kinds == {True, False}
    assert all(
        torch.equal(f[0], pixels[0]) or torch.equal(f[0], pixels[0].flip(-1)) for f in flipped
    )
    padded = torch.nn.functional.pad(pixels, (1, 1, 1, 1))
    crops = [padded[0, :, i : i + 6, j : j + 6] for i in range(3) for j in range(3)]
    for _ in range(20):
        cropped = augmented(crop_padding=1)[0]
        assert any(torch.equal(cropped, c) for c in crops)


def test_tensorboard_shows_the_metrics(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    journal = Journal(tmp_path)
    journal.record({"step": 10, "loss": 2.5})
    journal.record({"step": 20, "loss": 1.5})
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(10, 2.5), (20, 1.5)]
    lines = (tmp_path / METRICS_FILE).read_text("utf-8").splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [2.5, 1.5]
