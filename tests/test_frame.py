"""A network is traced once, told of in one way, and never permuted unchecked."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_fits import recipe_for

from neumeta_cli import pipeline
from neumeta_cli.checkpoint import load_checkpoint
from neumeta_cli.errors import NeumetaError
from neumeta_cli.permute import check_trace
from neumeta_cli.recipe import load_recipe
from neumeta_cli.resize import frame as frames
from neumeta_cli.resize import open_frame
from neumeta_cli.trace import Trace

HOLDS = """
from torch import nn

class Holds(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.heads = nn.Conv2d(3, 8, 3, padding=1), 2
        self.fixed, self.last = nn.Conv2d(8, 6, 3, stride=4), nn.Linear(6, 10)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x):
        x = self.norm(self.fixed(self.wide(x).relu()))
        return self.last(x.reshape(len(x), 6, -1).mean(2))

def build():
    return Holds()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch) -> Path:
    """A checkpoint of a network of the user's own, with one clique whose size is written out."""
    (tmp_path / "holds.py").write_text(HOLDS)
    monkeypatch.syspath_prepend(tmp_path)
    import holds

    torch.manual_seed(0)
    torch.save(holds.build().state_dict(), tmp_path / "own.pth")
    return tmp_path / "own.pth"


@pytest.fixture
def recipe_file(own: Path, image_folder: Path) -> Path:
    path = own.with_name("own.yaml")
    recipe = recipe_for(
        image_folder,
        model={"arch": "holds:build", "input_size": [3, 32, 32], "checkpoint": str(own)},
        scope="all",
        fit={"epochs": 1},
        eval={"watch": 0, "gammas": [0.5]},
    )
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return path


@pytest.mark.parametrize("fold", [True, False])
def test_a_fit_traces_each_graph_once(recipe_file: Path, tmp_path: Path, monkeypatch, fold) -> None:
    """That with its norms, and without them if they are folded."""
    traced = []
    trace_model = frames.trace_model
    monkeypatch.setattr(
        frames, "trace_model", lambda *args: traced.append(args[0]) or trace_model(*args)
    )
    monkeypatch.chdir(tmp_path)
    # The file is opened at the end as by somebody who has nothing but the file.
    monkeypatch.setattr(pipeline, "check_opens", lambda path: None)
    recipe = load_recipe(str(recipe_file), [f"norm.fold={str(fold).lower()}"])
    pipeline.run_recipe(recipe, tmp_path / "run")
    norms = [any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules()) for net in traced]
    assert norms == ([True, False] if fold else [True])


@pytest.mark.slow
def test_a_run_says_of_the_network_what_trace_does(neumeta, recipe_file: Path, own: Path) -> None:
    assert neumeta("fit", "-r", recipe_file, "--run", "run").code == 0
    options = ("--arch", "holds:build", "--input-size", "3,32,32", "--json", "-", "-q")
    told = json.loads(neumeta("trace", own, *options).stdout)
    run = json.loads(Path("run/trace.json").read_text("utf-8"))
    assert all(told[name] == value for name, value in run.items())
    held = {c["name"]: c["held"] for c in run["cliques"]}
    assert "fixed in the forward pass" in held["fixed"]
    assert not held["wide"]


@pytest.fixture
def wrong_rule(monkeypatch) -> None:
    """A trace by which layers read channels in another order than that in which they are made."""
    right = frames.trace_model

    def wrong(*args: object) -> Trace:
        trace = right(*args)
        for clique in trace.cliques:
            for member in clique.members[1:]:
                member.positions[:] = np.roll(member.positions, 1, axis=0)
        return trace

    monkeypatch.setattr(frames, "trace_model", wrong)


@pytest.mark.parametrize(
    "command",
    [
        ("permute", "own.pth", "--arch", "holds:build", "--input-size", "3,32,32"),
        ("fit", "-r", "own.yaml", "--run", "out"),
        ("distill", "own.pth", "--arch", "holds:build", "-r", "own.yaml", "-o", "out.safetensors"),
        ("compare", "-r", "own.yaml", "--methods", "l1", "--run", "out"),
    ],
)
def test_a_wrong_rule_is_refused_before_anything_is_written(
    neumeta: Callable, recipe_file: Path, wrong_rule: None, command: tuple[str, ...]
) -> None:
    before = {p.name for p in recipe_file.parent.rglob("*") if p.is_file()}
    result = neumeta(*command)
    assert result.code == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: the permuted network computes something else")
    assert {p.name for p in recipe_file.parent.rglob("*") if p.is_file()} - before <= {
        p.name for p in recipe_file.parent.rglob("__pycache__/*")
    }


def test_a_trace_is_checked_by_any_permutation(own: Path, wrong_rule: None) -> None:
    checkpoint = load_checkpoint(own, "holds:build", (3, 32, 32))
    with pytest.raises(NeumetaError, match="computes something else"):
        check_trace(checkpoint, open_frame(checkpoint.model, (3, 32, 32)).trace)


def test_a_right_trace_passes(own: Path) -> None:
    checkpoint = load_checkpoint(own, "holds:build", (3, 32, 32))
    check_trace(checkpoint, open_frame(checkpoint.model, (3, 32, 32)).trace)
