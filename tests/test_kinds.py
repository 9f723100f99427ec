"""An INR kind is a file, its settings are its own, and recipes and files of all kinds are read."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import neumeta_cli
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import KINDS, Inr, InrSettings, inr_settings
from neumeta_cli.manifold.inr import own_fields
from neumeta_cli.recipe import field_paths, parse_recipe

PACKAGE = Path(neumeta_cli.__file__).parent
USERS = {"trained.py", "tables.py"}  # methods of a comparison are INRs of certain kinds
OLD = {  # what recipes and files of version 0.1 hold, whatever their kind
    "store": "int8",
    "knots": [0.25, 0.5, 0.75],
    "per": "tensor",
    "hidden": 256,
    "layers": 5,
    "frequencies": 16,
    "size_frequencies": None,
    "scale": "fan_in",
}


def recipe_with(inr: dict[str, object], **fit: object):
    content = {"name": "x", "model": {"arch": "lenet"}, "inr": inr, "fit": fit}
    return parse_recipe(content, "x.yaml")


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_named_in_its_file_and_in_one_line_of_the_registry(kind: str) -> None:
    title = kind.title()
    word = re.compile(rf'"{kind}"|\b{title}(Inr|Settings)\b')
    found = {
        path.name: sum(bool(word.search(line)) for line in path.read_text("utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
        if path.name not in {f"{kind}.py", *USERS}
    }
    default = kind == "selected"  # which is said beside the registry
    assert {name: count for name, count in found.items() if count} == {"kinds.py": 1 + default}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_only_its_own_settings_and_reads_old_ones(kind: str) -> None:
    settings = recipe_with({"kind": kind, **OLD}).inr
    assert type(settings) is KINDS[kind].settings_type
    old = own_fields({"kind": kind, **OLD})
    assert settings.model_dump().keys() & OLD.keys() == old.keys() - {"kind"}
    again = recipe_with(settings.model_dump()).inr
    assert again == settings == inr_settings(**own_fields({"kind": kind, **OLD}))


def test_a_setting_of_another_kind_is_refused_by_its_name() -> None:
    with pytest.raises(NeumetaError, match=r"inr: knots is of kind selected, and this is kind mlp"):
        recipe_with({"kind": "mlp", "knots": [0.5]})
    with pytest.raises(NeumetaError, match="hidden is of kind mlp and factorised"):
        recipe_with({"kind": "selected", "hidden": 8})
    with pytest.raises(NeumetaError, match="no field"):
        recipe_with({"kind": "selected", "hiden": 8})


def test_rates_of_knots_are_read_where_they_used_to_stand() -> None:
    recipe = recipe_with({"kind": "selected"}, knot_rates=[1.0, 2.0, 3.0])
    assert recipe.inr == inr_settings("selected", knot_rates=[1.0, 2.0, 3.0])
    assert recipe_with({}, knot_rates=[]).inr == inr_settings("selected")
    with pytest.raises(NeumetaError, match="knot_rates: one for each of the 3 knots"):
        recipe_with({"kind": "selected"}, knot_rates=[1.0])


def test_every_setting_of_every_kind_is_described() -> None:
    told = field_paths()
    for name, inr in KINDS.items():
        assert name in told["inr.kind"]
        for field in inr.settings_type.model_fields:
            assert told[f"inr.{field}"], (name, field)


class Constant(Inr):
    """The example of the docstring of ``Inr``: a learnt number for each tensor."""

    def begin(self, tensors: dict[str, Tensor]) -> None:
        means = [tensors[spec.name].float().mean() for spec in self.specs]
        self.value = nn.Parameter(torch.stack(means))

    def generate(self, target, noise) -> Tensor:
        return self.value[target.spec.layer].expand(target.shape)


def test_the_example_of_a_kind_makes_networks(build, monkeypatch) -> None:
    monkeypatch.setitem(KINDS, "constant", Constant)
    model, arch = build("lenet")
    noise = neumeta_cli.NoiseSection(samples=1, channels=0.0, sizes=0.0)
    how = arch, arch.default_input_size(), "all", False, InrSettings(kind="constant"), noise
    manifold, _ = neumeta_cli.build_manifold(model, *how)
    means = {name: tensor.mean() for name, tensor in model.state_dict().items()}
    for width in (1.0, 0.5):
        small = manifold.requires_grad_(False).sample(width)
        for name, tensor in small.state_dict().items():
            torch.testing.assert_close(tensor, means[name].expand(tensor.shape))
    assert small(torch.randn(2, *arch.default_input_size())).shape == (2, 10)
