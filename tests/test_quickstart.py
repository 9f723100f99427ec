"""From a checkpoint and a folder of images to a manifold: the wizard, and what it foresees."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import typer
from conftest import REPOSITORY, DigitsFit
from test_cli import fails

from neumeta_cli.cli import distilling
from neumeta_cli.cli.found import in_bytes
from neumeta_cli.direct import foresee, job_of
from neumeta_cli.manifold import load_manifold
from neumeta_cli.recipe import load_recipe

LENET = Path(__file__).parent.parent / "examples" / "digits_lenet.safetensors"


def row(name: str, screen: str) -> str:
    found = re.search(rf"^{name}  +(.*?) *$", screen, re.MULTILINE)
    assert found is not None, screen
    return found[1]


@pytest.mark.slow
def test_without_a_terminal_it_shows_what_it_found_and_goes_on_with_yes_only(
    neumeta, image_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # which pytest-xdist sets
    asked = ("quickstart", LENET, "--data", image_folder, "--epochs", 1)
    shown = neumeta(*asked)
    assert shown.code == 0
    assert row("architecture", shown.stdout).startswith("zoo/lenet_digits, ")
    assert row("classes", shown.stdout) == (
        "10: class0, class1, class2, class3, class4, class5, class6, class7 and 2 more"
    )
    assert row("images", shown.stdout) == "120 for training, 30 for testing; grey, 8×8"
    assert row("can morph", shown.stdout) == "4 of 4 cliques"
    assert row("fit", shown.stdout) == "1 epoch in batches of 16"
    assert "preprocessing: 8×8" in shown.stderr
    assert not list(tmp_path.iterdir())
    again = shown.stderr.splitlines()[-1].partition("to go on: ")[2]
    fitted = neumeta(*shlex.split(again)[1:])
    assert fitted.code == 0
    assert "next: neumeta export manifold.safetensors --width 0.5 -o small.pt" in fitted.stderr
    for width in ("0.75", "0.5", "0.25"):
        assert re.search(
            rf"width {width}: .* bytes, .* ms \(.* before\), top-1 .* before\)", fitted.stdout
        )
    assert not Path("manifold.safetensors.training").exists()
    half = neumeta("export", "--width", "50%", "-o", "small.pt")  # of the newest: runs/latest
    assert "as measured at the fit" in half.stdout
    left = re.search(r"0\.5: (\d+%)", row("parameters left", shown.stdout))
    assert left is not None
    assert f"{left[1]} of the parameters" in half.stdout


@pytest.mark.slow
@pytest.mark.parametrize("answer", [True, False])
def test_in_a_terminal_it_asks_once(
    neumeta, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    questions: list[str] = []

    def confirm(question: str, **_: object) -> bool:
        questions.append(question)
        return answer

    monkeypatch.setattr(typer, "confirm", confirm)
    monkeypatch.setattr(distilling, "_terminal", lambda: True)
    output = tmp_path / "mine.safetensors"
    more = ("--data", image_folder, "--epochs", 1, "-o", output)
    assert neumeta("quickstart", LENET, *more).code == 0
    assert len(questions) == 1
    assert output.exists() == answer


@pytest.mark.slow
def test_a_forecast_tells_the_size_of_the_file_and_leaves_the_network_alone(
    digits_fit: DigitsFit,
) -> None:
    recipe = load_recipe("digits_lenet", ["fit.epochs=1", "noise.samples=2"])
    job = job_of(recipe)
    before = {name: t.clone() for name, t in job.checkpoint.model.state_dict().items()}
    forecast = foresee(job)
    assert forecast.seconds > 0
    assert forecast.precision in ("float32", "bfloat16")
    assert forecast.stored == pytest.approx(digits_fit.manifold.stat().st_size, rel=0.1)
    frame = job.frame.with_scope("all")
    for width, part in forecast.parts.items():
        left, full = frame.cost(frame.sizes(width)), frame.cost(frame.full)
        assert part == left.parameters / full.parameters
    for name, tensor in job.checkpoint.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_dry_run_fits_nothing(neumeta, tmp_path: Path) -> None:
    shown = neumeta("fit", "-r", "digits_lenet", "--dry-run", "--scope", "conv*", "--run", "run")
    assert shown.code == 0
    assert row("scope", shown.stdout) == "conv*"
    assert " of memory, after a look at 256" in row("takes", shown.stdout)
    assert row("writes", shown.stdout).startswith("run/manifold.safetensors of about ")
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_told_in_one_line(neumeta, tmp_path: Path) -> None:
    fails(neumeta("quickstart", LENET, "--data", tmp_path / "none"), "none")
    fails(neumeta("quickstart", LENET, "--data", tmp_path, "-o", "m.pt"), ".safetensors")
    assert neumeta("quickstart", LENET).code == 2


@pytest.mark.slow
def test_a_scope_of_several_patterns(neumeta, image_folder: Path, tmp_path: Path) -> None:
    more = ("--data", image_folder, "--epochs", 1, "--scope", "conv1, fc1")
    assert neumeta("distill", LENET, *more, "--set", "fit.precision=float32").code == 0
    assert set(load_manifold("manifold.safetensors").frame.scope) == {"conv1", "fc1"}


@pytest.mark.parametrize(
    ("count", "said"), [(3, "3 bytes"), (44_800_000, "44.8 MB"), (2.06e9, "2.06 GB")]
)
def test_bytes_as_people_say_them(count: float, said: str) -> None:
    assert in_bytes(count) == said


def test_no_folder_of_this_machine_is_in_a_manifold_but_the_checkpoints_name(
    digits_fit: DigitsFit,
) -> None:
    content = digits_fit.manifold.read_bytes()
    assert str(REPOSITORY).encode() not in content
    assert str(digits_fit.folder).encode() not in content
    recipe = load_manifold(digits_fit.manifold).provenance.recipe
    assert recipe["model"]["checkpoint"] == "digits_lenet.safetensors"
    kept = load_recipe(str(digits_fit.manifold.with_name("recipe.yaml"))).model.checkpoint
    assert Path(str(kept)).is_file()  # which a run resumes from
