"""The quicker precision is found by trying, told, kept, and changes nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_fits import TINY, prepared, recipe_for

from neumeta_cli.distill import Fitter
from neumeta_cli.errors import NeumetaError
from neumeta_cli.recipe import load_recipe
from neumeta_cli.reporting import Silent
from neumeta_cli.shipped import recipe_files
from neumeta_cli.tasks import load_task
from neumeta_cli.training import precision as module
from neumeta_cli.training import train_network
from neumeta_cli.training.precision import PRECISION_FILE, choose_precision
from neumeta_cli.training.settings import TrainSection

CPU = torch.device("cpu")


class Heard(Silent):
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def machine(monkeypatch) -> Callable[..., Callable[[str, int, int], None]]:
    """A machine whose clock is moved by what it computes: seconds an image in each precision."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def make(calls: list[tuple[str, int, int]], **speed: float) -> Callable[[str, int, int], None]:
        def rehearse(precision: str, number: int, images: int) -> None:
            calls.append((precision, number, images))
            now[0] += speed[precision] * images

        return rehearse

    return make


@pytest.mark.parametrize(
    ("bfloat16", "chosen"), [(0.1, "bfloat16"), (0.9, "bfloat16"), (0.99, "float32"), (1.2, None)]
)
def test_the_quicker_one_is_taken(machine, bfloat16: float, chosen: str | None) -> None:
    calls: list[tuple[str, int, int]] = []
    rehearse = machine(calls, float32=1.0, bfloat16=bfloat16)
    choice = choose_precision(rehearse, 64, 1000, CPU)
    assert choice.precision == (chosen or "float32")
    assert choice.images == 64
    assert choice.seconds == {"float32": 64.0, "bfloat16": pytest.approx(64 * bfloat16, rel=0.01)}
    assert {number for _, number, images in calls if images == 64} == {0, 1, 2}


def test_a_hopeless_one_is_tried_on_a_few_images_only(machine) -> None:
    calls: list[tuple[str, int, int]] = []
    choice = choose_precision(machine(calls, float32=1.0, bfloat16=9.0), 64, 1000, CPU)
    assert choice.precision == "float32"
    assert choice.told() == "precision: float32, 8 s for 8 images; bfloat16 72 s"
    assert {images for *_, images in calls} == {8}


def test_short_fits_are_rehearsed_less(machine) -> None:
    counts = {}
    for steps in (50, 10_000):
        calls: list[tuple[str, int, int]] = []
        choose_precision(machine(calls, float32=1.0, bfloat16=0.9), 64, steps, CPU)
        counts[steps] = len(calls)
    assert counts[50] < counts[10_000] / 2


def test_networks_that_do_not_run_in_bfloat16_take_float32() -> None:
    def rehearse(precision: str, number: int, images: int) -> None:
        if precision == "bfloat16":
            raise RuntimeError('"fancy" not implemented for BFloat16\nand more')

    choice = choose_precision(rehearse, 8, 10, CPU)
    assert choice.told() == (
        'precision: float32; bfloat16 does not run: "fancy" not implemented for BFloat16'
    )

    def broken(precision: str, number: int, images: int) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        choose_precision(broken, 8, 10, CPU)


@pytest.mark.slow
def test_a_rehearsal_leaves_a_fit_as_it_was(build, image_folder) -> None:
    """Selected channels, mixed widths, anchors and hints: all that a step draws and remembers."""
    recipe = recipe_for(
        image_folder,
        scope="all",
        norm={"fold": False},
        inr={"kind": "selected"},
        loss={"distill": 1.0, "hint": 1.0},
        fit={"mixed": 0.7, "anchors": [0.5], "anchor_shares": [0.5]},
    )
    ends = []
    for rehearsed in (False, True):
        fitter = Fitter(*prepared(build, recipe), recipe)
        for precision in ("float32", "bfloat16") if rehearsed else ():
            fitter.stepper.rehearse(precision, 1, 20)
        assert all(p.grad is None for p in fitter.manifold.inr.parameters())
        fitter.stepper.take(torch.arange(40))
        ends.append(fitter.manifold.inr.state_dict())
    assert all(torch.equal(t, ends[1][name]) for name, t in ends[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_a_fit_keeps_its_choice_when_it_goes_on(
    build, image_folder, tmp_path: Path, machine, monkeypatch, chosen: str
) -> None:
    """And computes what it would if the recipe had said it."""
    seconds = {"float32": 1.0, "bfloat16": 2.0 if chosen == "float32" else 0.5}
    found = {}
    for asked in ("auto", chosen):
        recipe = recipe_for(image_folder, fit={"precision": asked, "epochs": 1})
        heard = Heard()
        fitter = Fitter(*prepared(build, recipe), recipe, folder=tmp_path / asked, reporter=heard)
        (tmp_path / asked).mkdir()
        if asked == "auto":
            monkeypatch.setattr(fitter.stepper, "rehearse", machine([], **seconds))
        result = fitter.run()
        assert result.precision == chosen
        found[asked] = fitter.manifold.inr.state_dict()
        assert (len(heard.lines), (tmp_path / asked / PRECISION_FILE).exists()) == (
            (2, True) if asked == "auto" else (1, False)
        )
    assert all(torch.equal(t, found[chosen][name]) for name, t in found["auto"].items())
    again = Fitter(*prepared(build, recipe), recipe_for(image_folder, fit={"precision": "auto"}))
    again.loop.journal.folder = tmp_path / "auto"
    again.loop.resume()
    assert again.loop.settle_precision() == chosen  # without a rehearsal, which could say otherwise
    (tmp_path / "auto" / PRECISION_FILE).write_text('{"precision": "float7"}')
    with pytest.raises(NeumetaError, match=r"damaged; say which .* --set fit\.precision="):
        again.loop.settle_precision()


@pytest.mark.slow
def test_training_chooses_too_and_its_network_is_untouched_by_that(
    build, image_folder, tmp_path: Path
) -> None:
    ends, asked = [], "auto"
    for name in ("chosen", "told"):
        model, _ = build(TINY)
        task = load_task(recipe_for(image_folder).data, model, (3, 16, 16))
        folder = tmp_path / name
        folder.mkdir()
        train = TrainSection(epochs=1, batch_size=40, precision=asked)
        ends.append(train_network(model, task, train, folder=folder).state_dict())
        if name == "chosen":
            choice = json.loads((folder / PRECISION_FILE).read_text("utf-8"))
            assert set(choice["seconds"]) == {"float32", "bfloat16"}
            asked = choice["precision"]
    assert all(torch.equal(t, ends[1][name]) for name, t in ends[0].items())


def test_no_recipe_forces_a_precision() -> None:
    for name in recipe_files():
        recipe = load_recipe(name)
        assert (recipe.fit.precision, recipe.train.precision) == ("auto", "auto")
