"""The loop, seen from ordinary training: what is skipped, going back, and what it resumes."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_fits import recipe_for
from torch import Tensor, nn

from neumeta_cli.errors import NeumetaError
from neumeta_cli.tasks import Classification, Task, load_task
from neumeta_cli.training import METRICS_FILE, STATE_FILE, measure_plain_epoch, train_network
from neumeta_cli.training.learner import Place
from neumeta_cli.training.loop import BAD_STEPS, GOING_BACK
from neumeta_cli.training.plain import PlainStep
from neumeta_cli.training.settings import TrainSection

SETTINGS = {"epochs": 2, "batch_size": 40, "precision": "float32"}


class Small(nn.Module):
    """A network that normalises over the batch and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8)
        self.drop, self.linear = nn.Dropout(0.5), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.linear(self.drop(x))


@pytest.fixture
def prepare(image_folder) -> Callable[[], tuple[Small, Task]]:
    def make() -> tuple[Small, Task]:
        torch.manual_seed(0)
        model = Small().eval()
        return model, load_task(recipe_for(image_folder).data, model, (3, 32, 32))

    return make


def break_steps(monkeypatch, model: nn.Module, broken: Callable[[int], bool]) -> list[int]:
    """Make what the network reads in some of its steps not finite; counts them."""
    calls: list[int] = []
    take = PlainStep.take
    steps: list[int] = []

    def noted(self: PlainStep, index: Tensor, place: Place) -> dict[str, float] | None:
        steps.append(place.step)
        return take(self, index, place)

    monkeypatch.setattr(PlainStep, "take", noted)

    def read(_: nn.Module, given: tuple[Tensor]) -> Tensor | None:
        if not steps:  # a rehearsal
            return None
        calls.append(len(calls))
        return given[0] * float("nan") if broken(calls[-1]) else None

    model.register_forward_pre_hook(read)
    return calls


def rates_of(monkeypatch) -> list[tuple[int, float]]:
    """The step and the learning rate's factor of every step that is taken."""
    take, seen = PlainStep.take, []

    def noted(self: PlainStep, index: Tensor, place: Place) -> dict[str, float] | None:
        seen.append((place.step, place.factor))
        return take(self, index, place)

    monkeypatch.setattr(PlainStep, "take", noted)
    return seen


def test_a_skipped_step_changes_no_running_statistics(prepare, monkeypatch, tmp_path: Path) -> None:
    model, task = prepare()
    break_steps(monkeypatch, model, lambda call: call == 1)
    trained = train_network(model, task, TrainSection(**SETTINGS), folder=tmp_path)
    assert all(bool(t.isfinite().all()) for t in trained.state_dict().values())
    lines = [json.loads(x) for x in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert [(x["epoch"], x["step"], x["skipped"]) for x in lines] == [(1, 3, 1), (2, 6, 1)]
    assert trained.norm.num_batches_tracked == 5


def test_a_few_skipped_in_a_row_take_training_back_at_half_the_rate(prepare, monkeypatch) -> None:
    model, task = prepare()
    break_steps(monkeypatch, model, lambda call: 3 <= call < 3 + BAD_STEPS)
    seen = rates_of(monkeypatch)
    train_network(model, task, TrainSection(**SETTINGS | {"epochs": 4}))
    there = [(step, 1.0) for step in range(3 + BAD_STEPS)]
    assert seen == there + [(step, 0.5) for step in range(3, 12)]


def test_a_loss_that_is_never_finite_stops_training(prepare, monkeypatch) -> None:
    model, task = prepare()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    calls = break_steps(monkeypatch, model, lambda call: True)
    with pytest.raises(NeumetaError, match=r"not finite at .* lower train\.learning_rate \(now"):
        train_network(model, task, TrainSection(**SETTINGS | {"epochs": 9}))
    assert len(calls) == (1 + GOING_BACK) * BAD_STEPS
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_a_state_of_other_data_or_of_an_earlier_version_is_refused(prepare, tmp_path: Path) -> None:
    model, task = prepare()
    train_network(model, task, TrainSection(**SETTINGS), folder=tmp_path)
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    earlier = {"model": state["model"], "optimizer": state["optimizer"], "counts": [6, 0, 0]}
    earlier |= {"generator": state["choices"], "order": torch.arange(120), "seed": 0}
    earlier |= {"chance": torch.get_rng_state(), "total_loss": 0.0}
    for other in (state | {"images": 119}, state | {"seed": 1}, earlier):
        torch.save(other, tmp_path / STATE_FILE)
        with pytest.raises(
            NeumetaError, match=r"cannot resume from .*; leave out --resume"
        ) as told:
            train_network(*prepare(), TrainSection(**SETTINGS), folder=tmp_path, resume=True)
        assert "\n" not in str(told.value)


def test_a_rehearsal_and_a_measurement_leave_a_network_as_it_was(prepare, monkeypatch) -> None:
    monkeypatch.setattr("neumeta_cli.training.precision.CLEAR", math.inf)  # float32 is taken
    ends = []
    for rehearsed in (False, True):
        model, task = prepare()
        torch.manual_seed(0)
        if rehearsed:
            assert measure_plain_epoch(model, task, 40) > 0
        precision = "auto" if rehearsed else "float32"
        ends.append(train_network(model, task, TrainSection(**SETTINGS | {"precision": precision})))
        ends.append(torch.rand(()))
    plain, drawn, rehearsed, drawn_then = ends
    assert torch.equal(drawn, drawn_then)  # nothing draws from the generator that all code shares
    assert all(torch.equal(t, rehearsed.state_dict()[n]) for n, t in plain.state_dict().items())


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_batches_train_the_same_after_an_interruption(
    mix: str, prepare, monkeypatch, tmp_path: Path
) -> None:
    train = TrainSection(**SETTINGS, mix=mix, weight_decay=0.05)
    whole = train_network(*prepare(), train).state_dict()
    take = PlainStep.take

    def ended(self: PlainStep, index: Tensor, place: Place) -> dict[str, float] | None:
        if place.step == 4:
            raise RuntimeError("cut off")
        return take(self, index, place)

    monkeypatch.setattr(PlainStep, "take", ended)
    with pytest.raises(RuntimeError, match="cut off"):
        train_network(*prepare(), train, folder=tmp_path)
    monkeypatch.setattr(PlainStep, "take", take)
    resumed = train_network(*prepare(), train, folder=tmp_path, resume=True).state_dict()
    assert all(torch.equal(t, resumed[n]) for n, t in whole.items())
    plain = train_network(*prepare(), TrainSection(**SETTINGS)).state_dict()
    assert not torch.equal(whole["conv.weight"], plain["conv.weight"])


def test_the_last_steps_see_images_as_they_are(prepare, monkeypatch) -> None:
    seen = []
    compute = PlainStep._compute_gradients

    def noted(self: PlainStep, index: Tensor, step: int, mixed: object) -> dict[str, float]:
        seen.append((step, mixed is not None))
        return compute(self, index, step, mixed)

    monkeypatch.setattr(PlainStep, "_compute_gradients", noted)
    settings = SETTINGS | {"precision": "float32"}
    train_network(*prepare(), TrainSection(**settings, mix="cutmix", mix_share=0.5))
    taken = dict(seen)  # a rehearsal's steps come before
    assert {step: step < len(taken) / 2 for step in taken} == taken


def test_only_labels_of_classes_are_mixed(prepare) -> None:
    model, task = prepare()

    class Other(Task):
        """A task of no classes."""

        metrics, loss, meters = Classification.metrics, Classification.loss, Classification.meters

    with pytest.raises(NeumetaError, match=r"train\.mix=cutmix mixes labels of classes"):
        train_network(model, Other(task.data, task.train, task.test), TrainSection(mix="cutmix"))
