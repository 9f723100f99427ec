"""The examples run, as users run them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from neumeta_cli.cli import main

pytestmark = pytest.mark.slow

SCRIPTS = {
    "budget_search.py": ("one width: 1,", "searched: 1,", "taken: {"),
    "deploy_onnx.py": ("checked against torch", "top-1 of 359 test images with onnxruntime: "),
    "live_morphing.py": ("300 waiting: width 0.25", "as sampled at that width: True"),
    "morph.py": ("width 0.37", "computes what its twin in memory does: True"),
    "own_model.py": ("relative difference", "loaded again, the same: True"),
    "own_task.py": ("NeuMeta      width 0.5", "at width 0.4: "),
}


@pytest.fixture(scope="module")
def manifold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the digits recipe after two epochs."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fit = ["fit", "-r", "digits_lenet", "--epochs", "2", "--run", "run", "-q"]
        fit += ["--set", "fit.precision=float32"]
        patch.setattr("sys.argv", ["neumeta", *fit])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code in (0, None)
    return folder / "run" / "manifold.safetensors"


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_runs(manifold: Path, script: str) -> None:
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, REPOSITORY / "examples" / script, manifold],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for words in SCRIPTS[script]:
        assert words in result.stdout
    assert "False" not in result.stdout
