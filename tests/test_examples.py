"""The examples run, as users run them."""

import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY, DigitsFit

pytestmark = pytest.mark.slow

SCRIPTS = {
    "budget_search.py": ("one width: 1,", "searched: 1,", "taken: {"),
    "deploy_onnx.py": ("checked against torch", "top-1 of 359 test images with onnxruntime: "),
    "live_morphing.py": ("300 waiting: width 0.25", "as sampled at that width: True"),
    "morph.py": ("width 0.37", "computes what its twin in memory does: True"),
    "own_model.py": ("relative difference", "loaded again, the same: True"),
    "own_task.py": ("NeuMeta      width 0.5", "at width 0.4: "),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_runs(digits_fit: DigitsFit, script: str) -> None:
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, REPOSITORY / "examples" / script, digits_fit.manifold],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for words in SCRIPTS[script]:
        assert words in result.stdout
    assert "False" not in result.stdout
