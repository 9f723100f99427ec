"""Commands open at once: what they import is looked at, not the clock."""

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
GRAPHS = {"networkx", "sympy", "triton"}  # triton: what counts operations, sympy: meta functions
RARE = PICTURES | LIBRARIES | SOLVERS | GRAPHS
HEAVY = {"torch", "numpy", "pydantic", "yaml", "email"} | RARE  # importlib.metadata needs email
PROGRAM = """
import sys
sys.argv[0] = "neumeta"
from neumeta_cli.cli import main
try:
    main()
except SystemExit as ended:
    code = ended.code
print("modules", *sys.modules)
"""


def imported(*arguments: object, code: int = 0, **more: str) -> set[str]:
    """The top-level modules of a command's own process when it has ended."""
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM + f"sys.exit(code != {code})", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | more,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    words = result.stdout.splitlines()[-1].split()
    assert words[0] == "modules"
    return {name.partition(".")[0] for name in words[1:]}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["recipes", "--help"],
        ["recipes", "list"],
        ["recipes", "list", "--json", "-"],
        *([command, "--help"] for command in COMMANDS),
        *(["recipes", command, "--help"] for command in RECIPES),
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported_to_open(arguments: list[str]) -> None:
    assert not imported(*arguments) & HEAVY


def test_completion_imports_nothing_heavy() -> None:
    words = {"_NEUMETA_COMPLETE": "complete_bash", "COMP_WORDS": "neumeta ex", "COMP_CWORD": "1"}
    assert not imported(**words) & HEAVY
    words |= {"COMP_WORDS": "neumeta export --wi", "COMP_CWORD": "2"}
    assert not imported(**words) & HEAVY


@pytest.mark.slow
def test_a_file_that_is_not_there_is_missed_before_anything_rare_is_imported(
    tmp_path: Path,
) -> None:
    none = tmp_path / "none.safetensors"
    for command in ("info", "eval"):
        assert not imported(command, none, code=1) & RARE
    to = ["--width", "0.5", "-o", tmp_path / "half.pt"]
    assert not imported("export", none, *to, code=1) & RARE
    assert not imported("permute", none, code=1) & RARE
    fit = ["fit", "-r", "digits_lenet", "--checkpoint", none, "--run", tmp_path / "run"]
    assert not imported(*fit, code=1) & RARE


@pytest.mark.slow
def test_our_own_networks_need_no_library_of_architectures(tmp_path: Path) -> None:
    lenet = load_recipe("digits_lenet").model.checkpoint
    assert not imported("info", lenet) & (PICTURES | LIBRARIES | SOLVERS)
    traced = imported("trace", "lenet")
    assert "torch" in traced
    assert not traced & (RARE | {"pydantic"})
    permuted = ["permute", lenet, "-o", tmp_path / "permuted.safetensors"]
    assert not imported(*permuted) & (PICTURES | LIBRARIES)


@pytest.mark.slow
def test_a_library_is_imported_when_its_architecture_is_named() -> None:
    assert "timm" not in imported("trace", "torchvision/alexnet")
    assert "timm" in imported("trace", "timm/resnet10t")


def test_the_list_of_recipes_says_what_the_recipes_say() -> None:
    for name, about in recipe_summaries().items():
        recipe = load_recipe(name)
        assert about == {"arch": recipe.model.arch, "description": recipe.description}
    assert recipe_summaries().keys() == recipe_files().keys()


def test_importing_the_package_imports_no_torch() -> None:
    script = "import sys, neumeta_cli; print('torch' in sys.modules); neumeta_cli.load_recipe"
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    told = subprocess.check_output(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": paths}, text=True
    )
    assert told.strip() == "False"
