"""The notebook runs from its first cell to its last, and has its pictures and outputs in it."""

import ast
import json
import os
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY
from programs import Program

import neumeta_cli

TOUR = REPOSITORY / "examples" / "tour.ipynb"
MOST_BYTES = 200_000
# What it shows stays the same, but for its figures.
QUICKER = ("fit.epochs=15", 'fit.epochs=1", "fit.limit=128", "compare.images=40')


def cells() -> list[dict]:
    notebook = json.loads(TOUR.read_text("utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def words(text: str) -> list[str]:
    """Lines without their figures and the spaces around these."""
    return [re.sub(r"[\d.,% ]+", " ", line) for line in text.splitlines()]


def test_outputs_and_a_picture_are_stored_and_the_file_is_small() -> None:
    assert TOUR.stat().st_size < MOST_BYTES
    kinds = {kind for cell in cells() for out in cell["outputs"] for kind in out.get("data", {})}
    assert "image/png" in kinds
    for cell in cells():
        assert cell["outputs"]
        assert all(out["output_type"] != "error" for out in cell["outputs"])
    counts = [cell["execution_count"] for cell in cells()]
    assert counts == sorted(counts)


def test_it_uses_public_names_only() -> None:
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells()))
    nodes = list(ast.walk(tree))
    used = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "nm"
    }
    assert used
    assert used <= set(neumeta_cli.__all__)
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert "neumeta_cli" in modules
    assert not any(isinstance(node, ast.ImportFrom) and "neumeta" in node.module for node in nodes)


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """In a process of its own, as it changes the current folder; with fits of one epoch."""
    program = "\n".join("".join(cell["source"]) for cell in cells())
    assert QUICKER[0] in program
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    places = {"PYTHONPATH": paths, "MPLBACKEND": "agg", "TMPDIR": str(tmp_path)}
    running = Program("-c", program.replace(*QUICKER), environment=places)
    told, errors = running.communicate()
    assert running.returncode == 0, errors
    stored = "".join(
        "".join(out["text"])
        for cell in cells()
        for out in cell["outputs"]
        if out["output_type"] == "stream"
    )
    assert words(told) == words(stored)
