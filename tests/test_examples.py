"""The examples run, as users run them."""

import importlib.util

import pytest
from conftest import REPOSITORY, DigitsFit
from programs import Program

from neumeta_cli.resize import open_frame

pytestmark = pytest.mark.slow

SCRIPTS = {
    "budget_search.py": ("one width: 1,", "searched: 1,", "taken: {"),
    "deploy_onnx.py": ("checked against torch", "top-1 of 359 test images with onnxruntime: "),
    "live_morphing.py": ("300 waiting: width 0.25", "as sampled at that width: True"),
    "morph.py": ("width 0.37", "computes what its twin in memory does: True"),
    "own_model.py": ("relative difference", "loaded again, the same: True"),
    "own_task.py": ("NeuMeta      width 0.5", "at width 0.4: "),
    "own_transformer.py": ("NeuMeta      width 0.5", "at width 0.6: ", "tied: True"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_runs(digits_fit: DigitsFit, script: str) -> None:
    program = Program(REPOSITORY / "examples" / script, digits_fit.manifold)
    out, errors = program.communicate()
    assert program.returncode == 0, errors
    for words in SCRIPTS[script]:
        assert words in out
    assert "False" not in out


def test_what_cannot_shrink_holds_nothing_else() -> None:
    """The heads of that transformer have one width, written into its forward pass."""
    path = REPOSITORY / "examples" / "own_transformer.py"
    spec = importlib.util.spec_from_file_location("own_transformer_alone", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cliques = open_frame(module.network().eval(), (1, 1, 32)).trace.cliques
    held = {clique.name for clique in cliques if clique.held}
    free = {clique.name for clique in cliques} - held
    assert free == {"blocks.0.norm1", "blocks.0.gate", "blocks.1.gate"}
    assert all(".attention.value" in name for name in held)
