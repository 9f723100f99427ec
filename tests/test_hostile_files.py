"""What someone could hand on to do harm is refused in one line, or does none.

``tests/benchmarks/robustness.py`` tries hundreds of each sort.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from damage import rewritten
from hostile import MEMBER, TEXTS, families, use_family, use_recipe
from manifolds import saved_manifold
from safetensors.torch import load_file, save_file
from tally import judged

from neumeta_cli.checkpoint import read_weights
from neumeta_cli.compare.report import _losses
from neumeta_cli.documents import read_yaml
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import load_manifold
from neumeta_cli.recipe import load_recipe


@pytest.fixture(scope="module")
def manifold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_manifold(tmp_path_factory.mktemp("manifold"))


LARGEST = "a bomb of merged mappings"


@pytest.mark.parametrize(
    "name", [*sorted(TEXTS.keys() - {LARGEST}), pytest.param(LARGEST, marks=pytest.mark.slow)]
)
def test_recipes_that_readers_choke_on(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(TEXTS[name].encode("utf-8", "surrogateescape"))
    assert judged(lambda: use_recipe(path), most=5.0).fault is None


def test_names_in_yaml_may_stand_for_values_but_not_for_millions() -> None:
    assert read_yaml("a: &a [1, 2]\nb: [*a, *a]")["b"] == [[1, 2], [1, 2]]
    with pytest.raises(ValueError, match="more than 100,000 values"):
        read_yaml(TEXTS["a bomb as the whole"])
    with pytest.raises(ValueError, match="holds itself"):
        read_yaml("&a [*a]")


@pytest.mark.slow
@pytest.mark.parametrize(("linked", "shared"), [(False, True), (True, False)])
def test_an_index_names_no_file_but_a_familys_own(
    manifold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool, shared: bool
) -> None:
    monkeypatch.setattr("neumeta_cli.export.family.measure_latency", lambda *_: 0.001)
    for number, (name, index) in enumerate(families()):
        folder = tmp_path / str(number)
        folder.mkdir()

        def use(index: bytes = index, folder: Path = folder) -> None:
            use_family(manifold, index, folder, linked, shared)

        outcome = judged(use)
        assert outcome.fault is None, name
        listed = json.dumps({"file": MEMBER}).encode() in index
        assert (outcome.refused is None) == (listed and not shared), name


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.double(), "torch.float64, not torch.float32"),
        (lambda t: t.long(), "torch.int64, not torch.float32"),
        (lambda t: torch.full_like(t, float("nan")), "values that are no numbers"),
    ],
)
def test_tensors_of_a_manifold_are_numbers_of_their_type(
    manifold: Path, tmp_path: Path, change, reason: str
) -> None:
    tensors, path = load_file(manifold), tmp_path / "x.safetensors"
    for name in [n for n, t in tensors.items() if t.is_floating_point()][::4]:
        rewritten(manifold, path, lambda _: None)
        header = {"neumeta": json.dumps(read_weights(path).metadata)}
        save_file(tensors | {name: change(tensors[name])}, path, header)
        with pytest.raises(NeumetaError, match=reason):
            load_manifold(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["noise"].update(samples=10**9), "samples: "),
        (lambda d: d["inr"].update(kind=["selected"]), ""),
        (lambda d: d["inr"].update(added={"a": "x"}), r"added\.a: Input should be a valid integer"),
    ],
)
def test_metadata_that_would_take_for_ever_or_are_of_another_type(
    manifold: Path, tmp_path: Path, change: Callable[[dict], None], reason: str
) -> None:
    path = rewritten(manifold, tmp_path / "x.safetensors", change)
    with pytest.raises(NeumetaError, match=f"is a damaged manifold: {reason}"):
        load_manifold(path)


def test_recipes_with_the_same_are_told_the_field() -> None:
    for override, field in (
        ("noise.samples=1000000000", "noise.samples"),
        ("inr.kind=[selected]", "inr"),
    ):
        with pytest.raises(NeumetaError, match=rf"{field}"):
            load_recipe("digits_lenet", [override])


def test_a_damaged_journal_is_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for text in ('{"epoch": 1', '{"epoch": "one"}', "[" * 100_000):
        path.write_text(text, "utf-8")
        with pytest.raises(NeumetaError, match=r"metrics\.jsonl is damaged; remove it"):
            _losses(path)
