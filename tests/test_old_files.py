"""Files that earlier versions wrote open, and compute what they did."""

import json
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY

import neumeta_cli
from neumeta_cli.compare.results import Comparison, MethodRun
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate import L1_PRUNING, FitTable, Record
from neumeta_cli.recipe import load_recipe

WRITTEN = sorted((REPOSITORY / "tests" / "data").glob("*"))


@pytest.mark.parametrize("folder", WRITTEN, ids=lambda folder: folder.name)
def test_files_of_earlier_versions_open(folder: Path) -> None:
    outputs = json.loads((folder / "outputs.json").read_text("utf-8"))
    x = torch.linspace(-1, 1, 2 * 64).view(2, 1, 8, 8)
    manifold = neumeta_cli.load(folder / "manifold.safetensors")
    networks = {
        "manifold at 1": manifold.sample(1.0),
        "manifold at 0.37": manifold.sample(0.37),
        "half.pt": neumeta_cli.load(folder / "half.pt"),
    }
    assert networks.keys() == outputs.keys()
    for name, network in networks.items():
        torch.testing.assert_close(network(x), torch.tensor(outputs[name]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("folder", WRITTEN, ids=lambda folder: folder.name)
def test_recipes_of_earlier_run_folders_are_read(folder: Path) -> None:
    recipe = load_recipe(str(folder / "recipe.yaml"))
    assert recipe.model.arch == "lenet_digits"


EXAMPLES = REPOSITORY / "examples" / "results"
PUBLISHED = [*EXAMPLES.glob("compare_*.json"), EXAMPLES / "ablation_digits.json"]
RESULTS = {
    "compare/compare.json": Comparison,
    "compare/result.json": MethodRun,
    "fit/report/table.json": FitTable,
}


@pytest.mark.parametrize(("file", "kind"), RESULTS.items())
@pytest.mark.parametrize("folder", WRITTEN, ids=lambda folder: folder.name)
def test_results_of_earlier_versions_are_written_as_they_were(
    folder: Path, file: str, kind: type[Record], tmp_path: Path
) -> None:
    written = kind.read(folder / file).write(tmp_path / "again.json")
    assert written.read_text("utf-8") == (folder / file).read_text("utf-8")


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_published_comparisons_are_read_though_their_recipes_are_of_the_past(file: Path) -> None:
    assert Comparison.read(file).as_dict() == json.loads(file.read_text("utf-8"))


@pytest.mark.parametrize("folder", WRITTEN, ids=lambda folder: folder.name)
def test_a_fit_of_an_earlier_version_is_told_as_a_comparison(folder: Path) -> None:
    table = FitTable.read(folder / "fit" / "report" / "table.json")
    told = neumeta_cli.read_run(folder / "fit")
    assert [(m.method, m.label) for m in told.methods] == [
        ("neumeta", "NeuMeta"),
        ("l1", L1_PRUNING),
    ]
    measured = {(row.method, round(row.gamma, 6)): row.metrics for row in table.rows[1:]}
    assert measured == {(m.label, row.gamma): row.metrics for m in told.methods for row in m.rows}
    assert told.methods[0].seconds == table.fit.seconds
    assert told.checkpoint == table.rows[0]


def places_of(told: object, place: tuple = ()) -> list[tuple]:
    """The place of every value in a JSON document, as keys to follow."""
    items = told.items() if isinstance(told, dict) else ()
    items = enumerate(told) if isinstance(told, list) else items
    inner = [one for key, value in items for one in places_of(value, (*place, key))]
    return [*([place] if place else []), *inner]


@pytest.mark.parametrize(("file", "kind"), RESULTS.items())
def test_damaged_results_are_refused_with_the_place(
    file: str, kind: type[Record], tmp_path: Path
) -> None:
    """Each value in turn is what none may be, but in the recipe, which may be any version's."""
    text = (WRITTEN[-1] / file).read_text("utf-8")
    damaged = tmp_path / "damaged.json"
    for place in places_of(json.loads(text)):
        told = inside = json.loads(text)
        *path, last = place
        for key in path:
            inside = inside[key]
        derived = last == "gamma" and "method" in inside  # a network's, from its width
        if place[0] in ("recipe", "hardware") or derived:
            continue
        inside[last] = {"no": ["such thing"]}
        damaged.write_text(json.dumps(told), encoding="utf-8")
        with pytest.raises(NeumetaError, match="is damaged") as refused:
            kind.read(damaged)
        said = str(refused.value)
        assert str(place[0]) in said, place
        assert str(last) in said, place
        assert "\n" not in said
