"""Which of several weights in a file are taken: what recipes, resumed runs and results say."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ONE_EPOCH, Result

from neumeta_cli.checkpoint import resolve
from neumeta_cli.export import load
from neumeta_cli.pipeline import keep_recipe
from neumeta_cli.recipe import load_recipe
from neumeta_cli.training.journal import STATE_FILE

LENET = ("-r", "digits_lenet")
AVERAGED = ("--set", "model.weights_key=state_dict_ema")


@pytest.fixture
def two_weights(neumeta: Callable[..., Result]) -> dict[str, dict[str, torch.Tensor]]:
    """``two.pth`` in the folder where commands run, with weights and averages of them."""
    states = {}
    for seed, key in enumerate(("state_dict", "state_dict_ema")):
        torch.manual_seed(seed)
        states[key] = resolve("lenet_digits").build("cpu").state_dict()
    torch.save(states, "two.pth")
    return states


@pytest.mark.slow
def test_distill_takes_the_weights_that_a_recipe_names(
    neumeta: Callable[..., Result], two_weights: dict[str, dict[str, torch.Tensor]]
) -> None:
    scope = ("--set", "scope=fc1")
    for options, key in (((), "state_dict"), (AVERAGED, "state_dict_ema")):
        result = neumeta(
            *("distill", "two.pth", *LENET, *ONE_EPOCH, *scope, *options, "-o", "m.safetensors"),
            "--overwrite",
        )
        assert result.code == 0, result.stderr
        assert f"took the weights under {key}" in result.stderr
        fixed = load("m.safetensors").fixed["conv1.weight"]
        assert torch.equal(fixed, two_weights[key]["conv1.weight"])


def test_a_distillation_is_not_resumed_with_other_weights(
    neumeta: Callable[..., Result], two_weights: object
) -> None:
    folder = Path("m.safetensors.training")
    folder.mkdir()
    keep_recipe(folder / "recipe.yaml", load_recipe("digits_lenet"), resume=False)
    (folder / STATE_FILE).touch()
    again = ("distill", "two.pth", *LENET, *ONE_EPOCH, "-o", "m.safetensors", "--resume")
    for options in (("--weights-key", "state_dict_ema"), AVERAGED):
        result = neumeta(*again, *options)
        assert result.code == 1
        assert "was begun with the weights under no key; leave out --weights-key" in result.stderr
    assert folder.exists()


@pytest.mark.slow
def test_a_comparison_tells_which_weights_it_took(
    neumeta: Callable[..., Result], two_weights: object
) -> None:
    result = neumeta(
        *("compare", *LENET, "--checkpoint", "two.pth", "--weights-key", "state_dict_ema"),
        *("--methods", "l1", "--widths", "1,0.5", "--run", "compared", "--json", "told.json"),
    )
    assert result.code == 0, result.stderr
    told = json.loads(Path("told.json").read_text())
    assert told["source"] == {
        "key": "state_dict_ema",
        "copies": ["state_dict"],
        "left_out": [],
    }
    assert json.loads(Path("compared/compare.json").read_text())["source"] == told["source"]
