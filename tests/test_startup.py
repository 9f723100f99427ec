"""Commands open at once: what they import is looked at, not the clock."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from neumeta_cli.cli.app import COMMANDS, RECIPES
from neumeta_cli.recipe import load_recipe
from neumeta_cli.shipped import recipe_files, recipe_summaries

PICTURES = {"matplotlib", "torchmetrics"}
LIBRARIES = {"timm", "torchvision"}
SOLVERS = {"numba", "scipy", "sklearn"}
# Meta functions of torch import SymPy, and its counter of operations its compiler and Triton.
COMPILERS = {"networkx", "sympy", "triton", "torch._dynamo", "torch._inductor", "torch.onnx"}
RARE = PICTURES | LIBRARIES | SOLVERS | COMPILERS
# rich.console: help and errors in a pipe are plain; importlib.metadata needs email.
HEAVY = {"torch", "numpy", "pydantic", "yaml", "email", "rich.console"} | RARE
PROGRAM = """
import contextlib, io, json, os, sys
from neumeta_cli.cli import main

told = []
for arguments, more, code in json.loads(sys.argv[1]):
    sys.argv[:] = ["neumeta", *arguments]
    os.environ.update(more)
    said = io.StringIO()
    ended = 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            ended = end.code or 0
    for name in more:
        del os.environ[name]
    assert ended == code, (arguments, ended, said.getvalue())
    told.append(sorted(sys.modules))
print(json.dumps(told))
"""
Command = tuple[list[str], dict[str, str], int]  # what is typed, variables, and its exit code


def typed(*words: object, code: int = 0, **more: str) -> Command:
    return [*map(str, words)], more, code


def imported(*commands: Command) -> list[set[str]]:
    """The modules of one process after each of several commands, which it runs in this order."""
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return [set(names) for names in json.loads(result.stdout)]


def completion(words: str, place: int) -> Command:
    variables = {"_NEUMETA_COMPLETE": "complete_bash", "COMP_WORDS": words}
    return typed(**variables, COMP_CWORD=str(place))


def test_nothing_heavy_is_imported_to_open(tmp_path: Path) -> None:
    none = tmp_path / "none.safetensors"
    commands = [
        typed("--version"),
        typed("--help"),
        *(typed(command, "--help") for command in COMMANDS),
        *(typed("recipes", command, "--help") for command in RECIPES),
        typed("recipes", "list"),
        typed("recipes", "list", "--json", "-"),
        completion("neumeta ex", 1),
        completion("neumeta export --wi", 2),
        # A file that is not there is missed as soon.
        *(typed(command, none, code=1) for command in ("info", "trace", "permute", "eval")),
        typed("distill", none, code=1),
        typed("export", none, "--width", "0.5", "-o", tmp_path / "half.pt", code=1),
        typed("fit", "-r", "digits_lenet", "--checkpoint", none, code=1),
        typed("train", "-r", "digits_lenet", "--init", none, "-o", tmp_path / "x.pt", code=1),
        typed("recipes", "show", "auto", "--checkpoint", none, code=1),
    ]
    for command, modules in zip(commands, imported(*commands), strict=True):
        assert not modules & HEAVY, command


def test_a_command_imports_no_other_ones_module() -> None:
    version, shown = imported(typed("--version"), typed("report", "--help"))
    own = {f"neumeta_cli.cli.{name}" for name in ("permuting", "fitting", "exporting", "comparing")}
    assert not version & own
    assert shown & own == {"neumeta_cli.cli.comparing"}


@pytest.mark.slow
def test_our_own_networks_need_no_library_of_architectures(tmp_path: Path) -> None:
    lenet = load_recipe("digits_lenet").model.checkpoint
    traced, named, seen, shown, schema, permuted = imported(
        typed("trace", "lenet"),
        typed("trace", lenet),
        typed("info", lenet),
        typed("recipes", "show", "digits_lenet"),
        typed("recipes", "schema"),
        typed("permute", lenet, "-o", tmp_path / "permuted.safetensors"),
    )
    assert "torch" in traced
    assert not traced & (RARE | {"pydantic"})
    assert not named & (RARE | {"pydantic"})
    assert not seen & (RARE | {"pydantic"})
    assert not shown & RARE
    assert not schema & RARE
    assert not permuted & (PICTURES | LIBRARIES)


@pytest.mark.slow
def test_a_library_is_imported_when_its_architecture_is_named() -> None:
    torchvision, timm = imported(
        typed("trace", "torchvision/alexnet"), typed("trace", "timm/resnet10t")
    )
    assert "timm" not in torchvision
    assert "timm" in timm


def test_the_list_of_recipes_says_what_the_recipes_say() -> None:
    for name, about in recipe_summaries().items():
        recipe = load_recipe(name)
        assert about == {"arch": recipe.model.arch, "description": recipe.description}
    assert recipe_summaries().keys() == recipe_files().keys()


@pytest.mark.slow
def test_importing_the_package_imports_no_torch() -> None:
    script = "import sys, neumeta_cli; print('torch' in sys.modules); neumeta_cli.load_recipe"
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    told = subprocess.check_output(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": paths}, text=True
    )
    assert told.strip() == "False"
