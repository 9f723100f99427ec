"""The examples run, as users run them."""

import pytest
from conftest import REPOSITORY, DigitsFit
from programs import Program

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
    program = Program(REPOSITORY / "examples" / script, digits_fit.manifold)
    out, errors = program.communicate()
    assert program.returncode == 0, errors
    for words in SCRIPTS[script]:
        assert words in out
    assert "False" not in out
