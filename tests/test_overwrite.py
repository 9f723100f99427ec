"""No command writes over what is there unless it is told to."""

from pathlib import Path

import pytest
from conftest import REPOSITORY
from test_cli import fails

from neumeta_cli.training import STATE_FILE

LENET = REPOSITORY / "examples" / "digits_lenet.safetensors"
OURS = b"of somebody"


def taken(name: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(OURS)
    return path


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("m.safetensors", ["distill", LENET, "-r", "digits_lenet", "-o", "m.safetensors"]),
        ("manifold.safetensors", ["quickstart", LENET, "--data", ".", "--yes"]),
        ("mine.yaml", ["distill", LENET, "--data", ".", "--save-recipe", "mine.yaml"]),
        ("mine.yaml", ["fit", "--checkpoint", LENET, "--data", ".", "--save-recipe", "mine.yaml"]),
        ("run/report/table.json", ["fit", "-r", "digits_lenet", "--run", "run"]),
        ("run/compare.json", ["fit", "-r", "digits_lenet", "--run", "run"]),
        (f"run/{STATE_FILE}", ["fit", "-r", "digits_lenet", "--run", "run"]),
        ("run/report/table.json", ["compare", "-r", "digits_lenet", "--run", "run"]),
        (f"run/{STATE_FILE}", ["compare", "-r", "digits_lenet", "--run", "run"]),
        ("net.pt", ["train", "-r", "digits_lenet", "-o", "net.pt"]),
        ("net.pt", ["permute", LENET, "-o", "net.pt"]),
        ("digits_lenet.permuted.safetensors", ["permute", LENET]),
        ("page/report.html", ["report", "run", "-o", "page"]),
        ("small.pt", ["export", LENET, "-o", "small.pt"]),
    ],
)
def test_what_is_there_is_kept_and_the_way_on_is_told(
    neumeta, file: str, command: list[object]
) -> None:
    path = taken(file)
    fails(neumeta(*command), path.parts[0], "--overwrite")
    assert path.read_bytes() == OURS
    assert [p for p in Path().rglob("*") if p.is_file()] == [path]


@pytest.mark.parametrize(
    "command",
    [
        ["distill", LENET, "-r", "digits_lenet", "-o", "net.safetensors"],
        ["train", "-r", "digits_lenet", "-o", "net.safetensors"],
    ],
)
def test_what_an_interrupted_command_has_saved_is_kept(neumeta, command: list[object]) -> None:
    state = taken(f"net.safetensors.training/{STATE_FILE}")
    fails(neumeta(*command), "an unfinished run, which --resume continues", "--overwrite")
    assert state.read_bytes() == OURS


@pytest.mark.parametrize(
    "command",
    [
        ["distill", LENET, "-r", "digits_lenet", "-o", "net.safetensors"],
        ["train", "-r", "digits_lenet", "-o", "net.safetensors"],
        ["compare", "-r", "digits_lenet", "--run", "net.safetensors"],
    ],
)
def test_a_command_goes_on_when_it_may_replace(neumeta, command: list[object]) -> None:
    taken("net.safetensors/report/table.json" if "compare" in command else "net.safetensors")
    wrong = ["--set", "fit.epohs=1"]
    fails(neumeta(*command, *wrong, "--overwrite"), "did you mean fit.epochs")
