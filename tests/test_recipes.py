"""Recipes: what the shipped ones resolve to, and how a recipe takes over what its base says."""

import copy
import json
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.modules.batchnorm import _BatchNorm

from neumeta_cli.data.preprocessing import own_preprocessing, resolved
from neumeta_cli.errors import NeumetaError
from neumeta_cli.pipeline import build_untrained, recipe_arch, with_data
from neumeta_cli.recipe import Recipe, load_recipe, parse_recipe, recipe_schema
from neumeta_cli.shipped import base_file, recipe_files

SETTINGS = json.loads((REPOSITORY / "tests" / "recipe_settings.json").read_text("utf-8"))
"""Every field of the recipes that ship, and the paper's values, written down before recipes had
bases; a change of a default or of a base that reaches a recipe has to be made here too."""

NO_NORMS = ("celeba_vae", "digits_ablation", "digits_lenet", "mnist_lenet", "mnist_vae")
SHIPPED = sorted((REPOSITORY / "recipes").glob("*.yaml"))
LENET = "model: {arch: lenet}\n"
LARGE = 4  # fields of a section that no two recipes may both spell out


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Every field but the texts, the network's own preprocessing where it says nothing.

    A checkpoint goes by its name alone, as folders differ.
    """
    arch = recipe_arch(recipe)
    own = own_preprocessing(arch, recipe.model.input_size or arch.default_input_size())
    recipe = with_data(recipe, resolved(recipe.data, own))
    content = recipe.model_dump(mode="json", exclude={"name", "description"})
    checkpoint = content["model"]["checkpoint"]
    content["model"]["checkpoint"] = checkpoint and Path(checkpoint).name
    return content


def said_in(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text("utf-8"))


def leaves(content: Mapping[str, Any], *above: str) -> dict[tuple[str, ...], Any]:
    """Single values and lists by their place."""
    found = {}
    for key, value in content.items():
        place = (*above, key)
        found |= leaves(value, *place) if isinstance(value, dict) else {place: value}
    return found


@pytest.mark.parametrize("name", recipe_files())
def test_a_shipped_recipe_resolves_to_the_settings_written_down(name: str) -> None:
    expected = copy.deepcopy(SETTINGS[name])
    if name in NO_NORMS:
        expected["norm"]["fold"] = False  # the default now, and there is nothing to fold
    assert settings_of(load_recipe(name)) == expected


@pytest.mark.parametrize("name", NO_NORMS)
def test_folding_means_nothing_to_recipes_whose_networks_have_no_norms(name: str) -> None:
    model, _ = build_untrained(load_recipe(name))
    assert not any(isinstance(module, _BatchNorm) for module in model.modules())


def test_the_papers_values_are_a_base(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nbase: _paper\nmodel: {arch: lenet}\n")
    assert settings_of(load_recipe(str(path))) == SETTINGS["paper"]
    defaults = settings_of(parse_recipe({"name": "mine", "model": {"arch": "lenet"}}, "mine"))
    assert defaults != SETTINGS["paper"]


def test_a_recipe_without_a_base_has_what_works_for_whole_networks(tmp_path: Path) -> None:
    bare, based = tmp_path / "bare.yaml", tmp_path / "based.yaml"
    bare.write_text(f"name: mine\n{LENET}")
    based.write_text(f"name: mine\nbase: _whole_network\n{LENET}")
    recipe, other = load_recipe(str(bare)), load_recipe(str(based))
    assert recipe.fit.mixed_power < other.fit.mixed_power  # narrow networks more often
    drawn = ["fit.mixed_power=1", "fit.drawn_weight=1"]
    assert load_recipe(str(bare), drawn) == other
    assert recipe.inr.store == "int8"
    assert recipe.fit.anchors
    assert recipe.fit.mixed
    other = load_recipe(str(bare), ["inr.kind=factorised"])
    assert other.inr.store == "float32"  # whose matrices 8 bits have not been tried with


def test_no_two_shipped_recipes_spell_out_the_same_block() -> None:
    """A block: a large section, or two sections of more than one field each."""
    for one, other in combinations(SHIPPED, 2):
        first, second = said_in(one), said_in(other)
        same = [
            section
            for section, fields in first.items()
            if isinstance(fields, dict) and len(fields) > 1 and second.get(section) == fields
        ]
        large = [section for section in same if len(first[section]) >= LARGE]
        assert len(same) < 2, f"{one.name} and {other.name} both say {same}"
        assert not large, f"{one.name} and {other.name} both say {large}"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_no_shipped_recipe_says_again_what_its_base_says(path: Path) -> None:
    own, base = leaves(said_in(path)), path
    while named := said_in(base).get("base"):
        base = base_file(named, base)
        under = leaves(said_in(base))
        again = {place for place, value in own.items() if under.get(place) == value}
        if ("inr", "kind") in own:  # which brings all fields of its section
            again = {place for place in again if place[0] != "inr"}
        assert not again, f"{path.name} says what {base.name} does: {again}"


def test_bases_are_not_offered_as_recipes(neumeta) -> None:
    listed = json.loads(neumeta("recipes", "list", "--json", "-").stdout)
    assert listed
    assert not [name for name in listed if name.startswith("_")]
    with pytest.raises(NeumetaError, match="no recipe '_whole_network'"):
        load_recipe("_whole_network")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """Write a recipe's file into a fresh folder; gives its path."""

    def written(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return written


def test_mappings_of_a_base_are_merged_and_the_rest_is_replaced(write) -> None:
    write(
        "base.yaml",
        "model: {arch: lenet, kwargs: {a: 1, b: {c: 2, d: 3}}}\n"
        "fit: {epochs: 7, anchors: [0.1, 0.2]}\nseed: 5\nscope: all\n",
    )
    own = "name: own\nbase: base.yaml\nmodel: {kwargs: {b: {c: 9}}}\nfit: {anchors: [0.3]}\nseed: 6"
    recipe = load_recipe(write("own.yaml", own))
    assert recipe.model.kwargs == {"a": 1, "b": {"c": 9, "d": 3}}
    assert (recipe.fit.epochs, recipe.fit.anchors) == (7, [0.3])
    assert (recipe.seed, recipe.scope) == (6, "all")


@pytest.mark.parametrize(
    ("base", "own", "together"),
    [
        ("kind: factorised, hidden: 8", "kind: selected", "kind: selected"),
        ("store: int8", "kind: selected", "kind: selected"),  # the base's kind is the default
        (
            "kind: selected, store: int8",
            "knots: [0.5]",
            "kind: selected, store: int8, knots: [0.5]",
        ),
        ("kind: mlp, hidden: 8", "kind: mlp, layers: 2", "kind: mlp, hidden: 8, layers: 2"),
    ],
)
def test_a_section_of_another_kind_takes_no_field_from_the_base(
    write, base: str, own: str, together: str
) -> None:
    write("base.yaml", f"model: {{arch: lenet}}\ninr: {{{base}}}\n")
    recipe = load_recipe(write("own.yaml", f"name: own\nbase: base.yaml\ninr: {{{own}}}\n"))
    alone = {"name": "own", "model": {"arch": "lenet"}, "inr": yaml.safe_load(f"{{{together}}}")}
    assert recipe == parse_recipe(alone, "alone")


def test_a_recipe_has_a_name_and_a_description_of_its_own(write) -> None:
    write("base.yaml", "name: base\ndescription: of the base\nmodel: {arch: lenet}\n")
    recipe = load_recipe(write("own.yaml", "name: own\nbase: base.yaml\n"))
    assert (recipe.name, recipe.description) == ("own", "")
    with pytest.raises(NeumetaError, match=r"nameless\.yaml: name: Field required"):
        load_recipe(write("nameless.yaml", "base: base.yaml\n"))


def test_a_checkpoint_lies_beside_the_file_that_names_it(write, tmp_path: Path) -> None:
    write("bases/base.yaml", "model: {arch: lenet, checkpoint: net.pt}\n")
    own = write("own/own.yaml", "name: own\nbase: ../bases/base.yaml\n")
    assert load_recipe(own).model.checkpoint == str(tmp_path / "bases" / "net.pt")
    other = write("own/other.yaml", "name: own\nbase: own.yaml\nmodel: {checkpoint: net.pt}\n")
    assert load_recipe(other).model.checkpoint == str(tmp_path / "own" / "net.pt")
    digits = write("own/digits.yaml", "name: own\nbase: digits_lenet\n")
    assert load_recipe(digits).model.checkpoint == load_recipe("digits_lenet").model.checkpoint


def test_an_override_has_the_last_word(write) -> None:
    write("base.yaml", "model: {arch: lenet}\nfit: {epochs: 7, batch_size: 5}\n")
    own = write("own.yaml", "name: own\nbase: base.yaml\nfit: {epochs: 8}\n")
    fit = load_recipe(own, ["fit.epochs=9"]).fit
    assert (fit.epochs, fit.batch_size) == (9, 5)


def test_a_recipe_is_written_complete_and_without_its_base(write) -> None:
    recipe = load_recipe("digits_ablation")
    content = yaml.safe_load(recipe.as_yaml())
    assert content == recipe.model_dump(mode="json")
    assert "base" not in content
    assert load_recipe(write("recipe.yaml", recipe.as_yaml())) == recipe


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"own": "base: own.yaml"}, ["own.yaml: base: own.yaml", "circle", "leave it out"]),
        (
            {"own": "base: a.yaml", "a": "base: b.yaml", "b": "base: ./a.yaml"},
            ["b.yaml: base: ./a.yaml", "own.yaml → a.yaml → b.yaml → a.yaml"],
        ),
        ({"own": "base: none.yaml"}, ["own.yaml: base: none.yaml: no such file"]),
        ({"own": "base: a.yaml", "a": "base: digits_lent"}, ["a.yaml", "no such recipe", "list"]),
        ({"own": "base: [a.yaml]"}, ["own.yaml: base", "name one"]),
        ({"own": "base: a.yaml", "a": "- 1"}, ["a.yaml is not a recipe"]),
        ({"own": "base: a.yaml", "a": "a: ["}, ["a.yaml is not YAML"]),
        (
            {"own": "base: a.yaml", "a": f"{LENET}fit: {{epocs: 3}}"},
            ["a.yaml: no field", "fit.epochs"],
        ),
        (
            {"own": "base: a.yaml", "a": f"{LENET}fit: {{anchors: [x]}}"},
            ["a.yaml: fit.anchors.0"],
        ),
        (
            {"own": "base: a.yaml\nfit: {epochs: x}", "a": f"{LENET}fit: {{epochs: y}}"},
            ["own.yaml: fit.epochs", "'x'"],
        ),
        ({"own": "base: a.yaml", "a": "seed: 1"}, ["own.yaml: model: Field required"]),
    ],
)
def test_a_wrong_base_is_told_with_its_file(write, files: dict[str, str], words: list) -> None:
    for name, text in files.items():
        write(f"{name}.yaml", text if text.startswith("-") else f"name: {name}\n{text}\n")
    own = write("own.yaml", f"name: own\n{files['own']}\n")
    with pytest.raises(NeumetaError) as caught:
        load_recipe(own)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_wrong_override_is_not_blamed_on_the_base() -> None:
    with pytest.raises(NeumetaError, match=r"digits_lenet\.yaml: fit\.anchors.*'x'"):
        load_recipe("digits_lenet", ["fit.anchors=x"])


def test_the_schema_knows_the_keys_of_every_shipped_file() -> None:
    schema = recipe_schema()
    assert schema["required"] == ["name"]
    assert set(Recipe.model_fields) == schema["properties"].keys() - {"base"}
    for path in SHIPPED:
        assert said_in(path).keys() <= schema["properties"].keys()


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(sorted(SETTINGS)), st.data())
def test_however_a_recipe_is_split_into_bases_it_says_the_same(name: str, data) -> None:
    """What a base says is covered where a file before it says something else."""
    content = {"name": "split", **SETTINGS[name]}
    files: list[dict[str, Any]] = [{}, {}, {}]  # the recipe, its base, and the base of that
    for section, fields in content.items():
        parts = (
            fields.items() if isinstance(fields, dict) and section != "inr" else [(None, fields)]
        )
        for field, value in parts:
            place = 0 if section == "name" else data.draw(st.integers(0, 2), f"{section}.{field}")
            covered = data.draw(st.booleans()) and place < 2
            for number, said in ((place, value), *([(place + 1, "covered")] if covered else [])):
                if field is None:
                    files[number][section] = said
                else:
                    files[number].setdefault(section, {})[field] = said
    with TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.yaml") for number in range(3)]
        for number, said in enumerate(files):
            named = {} if number == 2 else {"base": f"{number + 1}.yaml"}
            paths[number].write_text(yaml.safe_dump(named | said), "utf-8")
        assert settings_of(load_recipe(str(paths[0]))) == SETTINGS[name]
