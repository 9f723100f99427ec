"""The examples in docstrings are true: those of the types that a reader meets first."""

import doctest
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn

from neumeta_cli.checkpoint.arch import resolve
from neumeta_cli.data.settings import DataSection
from neumeta_cli.manifold import build_manifold, inr_settings
from neumeta_cli.manifold.settings import NoiseSection
from neumeta_cli.tasks import Classification
from neumeta_cli.trace import trace_model


def nothing() -> dict[str, Any]:
    return {}


def networks() -> dict[str, Any]:
    return {"nn": nn, "torch": torch, "trace_model": trace_model}


def architectures() -> dict[str, Any]:
    return {"resolve": resolve, "inr_settings": inr_settings, "NoiseSection": NoiseSection}


def a_manifold() -> dict[str, Any]:
    lenet = resolve("lenet_digits")
    parts = lenet.build("cpu"), lenet, (1, 8, 8), "all", False, inr_settings(), NoiseSection()
    return {"manifold": build_manifold(*parts)[0]}


def digits() -> dict[str, Any]:
    data = DataSection(format="digits", mean=[0.5], std=[0.5])
    return {"Classification": Classification, "data": data}


@pytest.mark.parametrize(
    ("module", "types", "around"),
    [
        ("trace.cliques", {"Clique", "Trace"}, networks),
        ("resize.frame", {"Frame"}, networks),
        ("resize.layouts", {"Layout"}, networks),
        ("manifold.inr.coordinates", {"Target"}, nothing),
        ("manifold.manifold", {"Manifold"}, architectures),
        ("tasks.base", {"Metric", "Task"}, digits),
        ("recipe.recipe", {"Recipe"}, nothing),
        ("training.learner", {"Place"}, nothing),
        ("export.choose.wish", {"Choice"}, a_manifold),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_example_of_a_type_is_true(module: str, types: set[str], around: Any) -> None:
    found = import_module(f"neumeta_cli.{module}")
    names = vars(found) | around()
    shown = set()
    for example in doctest.DocTestFinder().find(found, extraglobs=names):
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(example)
        assert not runner.summarize(verbose=False).failed
        if example.examples:
            shown.add(example.name.rpartition(".")[2])
    assert shown == types
