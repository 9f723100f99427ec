"""Checkpoints as people save them: whatever is around the weights, the network is the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Told
from safetensors.torch import save_file
from saved_files import (
    HERE,
    State,
    in_model,
    in_model_in_module,
    in_module,
    in_net,
    layers,
    opened,
    plain,
    prefixed,
    same,
    trained,
)
from torch import nn

from neumeta_cli.checkpoint import (
    load_checkpoint,
    read_weights,
    take_weights,
    write_weights,
)
from neumeta_cli.cli.adapting import adapted
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export import load
from neumeta_cli.recipe import load_recipe

# Names.

NETWORKS = [plain, layers, in_net, in_model, in_module, in_model_in_module]
AROUND: dict[str, Callable[[State], State]] = {
    "as it is": lambda s: s,
    "module": lambda s: prefixed("module.", s),
    "model": lambda s: prefixed("model.", s),
    "net": lambda s: prefixed("net.", s),
    "several": lambda s: prefixed("_orig_mod.module.student.", s),
    "of its own": lambda s: prefixed("backbone.0.", s),
    "a loss beside": lambda s: {**prefixed("model.", s), "criterion.pos_weight": torch.ones(2)},
    "a loss beside plain names": lambda s: {**s, "criterion.pos_weight": torch.ones(2)},
    "a number of averages": lambda s: {"n_averaged": torch.tensor(3), **prefixed("module.", s)},
    "metrics": lambda s: {**prefixed("net.", s), "train_acc.tp": torch.zeros(3)},
    "a head beside": lambda s: {**prefixed("encoder.", s), "decoder.weight": torch.ones(2, 2)},
    "compiled layers": lambda s: {_within(n, "_orig_mod"): t for n, t in s.items()},
    "sharded layers": lambda s: {_within(n, "_fsdp_wrapped_module"): t for n, t in s.items()},
    "recomputed layers": lambda s: {
        f"module.{_within(n, '_checkpoint_wrapped_module')}": t for n, t in s.items()
    },
    "fabric": lambda s: prefixed("_forward_module._orig_mod.", s),
    "parallel layers": lambda s: {_within(n, "module"): t for n, t in s.items()},
    "a profiler's counts": lambda s: {
        **s,
        **{f"{n.rpartition('.')[0]}.total_ops": torch.zeros(1).double() for n in s},
    },
}


def _within(name: str, wrapper: str) -> str:
    owner, _, last = name.rpartition(".")
    return f"{owner}.{wrapper}.{last}"


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("factory", NETWORKS)
def test_names_are_matched_with_those_that_the_network_wants(
    tmp_path: Path, factory: Callable[[], nn.Module], around: str
) -> None:
    suffix = ".pth" if len(around) % 2 else ".safetensors"
    model, path = trained(factory), tmp_path / f"x{suffix}"
    state = AROUND[around](model.state_dict())
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    checkpoint = load_checkpoint(path, f"{factory.__module__}:{factory.__name__}")
    assert same(checkpoint.model, model)
    taken = {checkpoint.weights.name_in_file(name) for name in checkpoint.weights.tensors}
    counters = {n for n in state if n.endswith("num_batches_tracked")}
    assert taken.isdisjoint(checkpoint.weights.left_out)
    assert taken | set(checkpoint.weights.left_out) | counters == set(state)


@pytest.mark.parametrize("factory", [in_net, in_model_in_module])
def test_a_network_around_what_was_saved_is_filled(
    tmp_path: Path, factory: Callable[[], nn.Module]
) -> None:
    inner = trained(layers)
    torch.save(inner.state_dict(), tmp_path / "inner.pt")
    assert same(opened(tmp_path / "inner.pt", factory), inner)


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # torch 2.11's
@pytest.mark.parametrize(
    "kind", [pytest.param("compile", marks=pytest.mark.slow), "parallel", "average"]
)
def test_what_torch_wraps_around_a_network_is_looked_through(tmp_path: Path, kind: str) -> None:
    model = trained(plain)
    wrapped = {
        "compile": lambda: torch.compile(model),
        "parallel": lambda: nn.DataParallel(model),
        "average": lambda: torch.optim.swa_utils.AveragedModel(model),
    }[kind]()
    torch.save(wrapped.state_dict(), tmp_path / "x.ckpt")
    assert same(opened(tmp_path / "x.ckpt", plain), model.cpu())  # DataParallel takes it to a GPU


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    model, told = trained(in_net), Told()
    state = {**model.state_dict(), "criterion.pos_weight": torch.ones(2)}
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    checkpoint = load_checkpoint(tmp_path / "x.pth", f"{HERE}:in_net", reporter=told)
    assert checkpoint.source() == {
        "key": "state_dict",
        "copies": [],
        "left_out": ["criterion.pos_weight"],
    }
    assert len(told.lines) == 1
    assert told.lines[0].endswith("has no place for: criterion.pos_weight")


def test_layers_that_the_network_lacks_are_not_left_out_silently(tmp_path: Path) -> None:
    """They belong to a deeper network, of which this one would be a part."""
    state = {**trained(plain).state_dict(), "conv.1.weight": torch.ones(2)}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(NeumetaError, match=r"1 unexpected \(conv.1.weight\)"):
        opened(tmp_path / "x.pth", plain)
    torch.save({**trained(plain).state_dict(), "token": torch.ones(2)}, tmp_path / "x.pth")
    with pytest.raises(NeumetaError, match=r"1 unexpected \(token\)"):
        opened(tmp_path / "x.pth", plain)


def test_a_network_that_is_there_twice_has_to_be_chosen(tmp_path: Path) -> None:
    student, teacher = trained(plain), trained(plain, seed=1)
    path = tmp_path / "x.pth"
    state = prefixed("student.", student.state_dict()) | prefixed("teacher.", teacher.state_dict())
    torch.save(state, path)
    with pytest.raises(NeumetaError, match=r"under student, teacher; .*--weights-key"):
        opened(path, plain)
    assert same(opened(path, plain, weights_key="teacher"), teacher)
    assert same(opened(path, plain, weights_key="student"), student)
    with pytest.raises(NeumetaError, match=r"nothing under 'pupil'; it has student, teacher"):
        opened(path, plain, weights_key="pupil")


# Nesting, and averaged copies.


@pytest.mark.parametrize(
    "keys",
    [
        *(["params"], ["params_ema"], ["model_ema"], ["net"], ["generator"], ["whatever"]),
        *(["state", "network"], ["model", "state_dict"], ["a", "b", "c"]),
    ],
    ids=".".join,
)
def test_a_sole_state_dict_is_taken_from_under_any_key(tmp_path: Path, keys: list[str]) -> None:
    model = trained(plain)
    content: Any = model.state_dict()
    for key in reversed(keys):
        content = {key: content, "epoch": 3, "loss": torch.tensor(0.5)}
    moments = {n: {"step": torch.tensor(1.0), "exp_avg": torch.ones(4)} for n in range(3)}
    content["optimizer"] = {"state": moments, "param_groups": [{"lr": 0.1, "params": [0, 1, 2]}]}
    content["callbacks"] = {"ModelCheckpoint{'monitor': 'x'}": {"best": torch.tensor(0.2)}}
    content["rng"] = torch.get_rng_state()
    content["class_weights"] = torch.ones(10)
    torch.save(content, tmp_path / "x.pth")
    assert same(opened(tmp_path / "x.pth", plain), model)


def test_several_state_dicts_are_listed(tmp_path: Path) -> None:
    first, second = trained(plain), trained(plain, seed=1)
    content = {"generator": first.state_dict(), "critic": {"weights": second.state_dict()}}
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(NeumetaError, match=r"generator, critic.weights; choose .*--weights-key"):
        opened(tmp_path / "x.pth", plain)
    for key, model in (("generator", first), ("critic", second), ("critic.weights", second)):
        assert same(opened(tmp_path / "x.pth", plain, weights_key=key), model)


@pytest.mark.parametrize(
    ("weights", "averaged"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("params", "params_ema"),
        ("net", "ema"),
        ("anything", "swa_model"),
    ],
)
@pytest.mark.parametrize("nested", [True, False], ids=["keys", "prefixes"])
def test_of_weights_and_their_averages_it_is_said_which_were_taken(
    tmp_path: Path, weights: str, averaged: str, nested: bool
) -> None:
    model, mean, told = trained(plain), trained(plain, seed=1), Told()
    path = tmp_path / "x.pth"
    both = {averaged: mean.state_dict(), weights: model.state_dict()}
    flat = {f"{key}.{name}": t for key, state in both.items() for name, t in state.items()}
    torch.save(both if nested else flat, path)
    checkpoint = load_checkpoint(path, f"{HERE}:plain", reporter=told)
    assert same(checkpoint.model, model)
    assert checkpoint.source() == {"key": weights, "copies": [averaged], "left_out": []}
    assert f"took the weights under {weights}, not those under {averaged}" in told.lines[0]
    assert same(opened(path, plain, weights_key=averaged), mean)
    assert same(load(path, f"{HERE}:plain", weights_key=averaged), mean)


def test_written_back_a_file_has_no_copies_of_what_has_changed(tmp_path: Path) -> None:
    model, mean, path = trained(plain), trained(plain, seed=1), tmp_path / "x.pth"
    content = {"epoch": 3, "ema": mean.state_dict(), "net": prefixed("module.", model.state_dict())}
    torch.save(content, path)
    checkpoint = load_checkpoint(path, f"{HERE}:plain", weights_key="ema")
    again = torch.load(write_weights(tmp_path / "y.pth", checkpoint.weights), weights_only=True)
    assert again.keys() == {"epoch", "ema"}
    checkpoint = load_checkpoint(path, f"{HERE}:plain")
    again = torch.load(write_weights(tmp_path / "y.pth", checkpoint.weights), weights_only=True)
    assert again.keys() == {"epoch", "net"}
    assert list(again["net"]) == list(content["net"])


def test_the_key_is_kept_in_the_recipe_of_a_run(tmp_path: Path) -> None:
    chosen = adapted("digits_lenet", None, Path("x.pth"), weights_key="ema")
    assert chosen.model.weights_key == "ema"
    (tmp_path / "recipe.yaml").write_text(chosen.as_yaml(), "utf-8")
    resumed = adapted(str(tmp_path / "recipe.yaml"), None)
    assert resumed.model == chosen.model
    assert adapted("digits_lenet", None, Path("x.pth")).model.weights_key is None


def test_a_part_of_a_network_starts_from_a_wrapped_file(tmp_path: Path) -> None:
    encoder = trained(plain)
    content = {"state_dict": {**prefixed("module.", encoder.state_dict()), "head.w": torch.ones(2)}}
    torch.save(content, tmp_path / "x.pth")
    model = nn.ModuleDict({"encoder": trained(plain, 1), "head": nn.Linear(2, 2)}).eval()
    assert take_weights(model, read_weights(tmp_path / "x.pth").tensors) == 7
    assert same(model["encoder"], encoder)


# Paths.


@pytest.mark.parametrize(
    "name",
    ["x.pth.tar", "x.PTH", "x.pkl", "x.Pt", "x.ckpt.tar", "x.pickle", "x.th", "x.SafeTensors"],
)
def test_endings_that_people_use(tmp_path: Path, name: str) -> None:
    model, path = trained(plain), tmp_path / name
    (save_file if "afe" in name else torch.save)(model.state_dict(), path)
    checkpoint = load_checkpoint(path, f"{HERE}:plain")
    assert same(checkpoint.model, model)
    write_weights(path, checkpoint.weights)
    assert same(opened(path, plain), model)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_link_to_a_blob_is_read_by_its_own_ending(tmp_path: Path, suffix: str) -> None:
    model, blob = trained(plain), tmp_path / "blobs" / "5f3a9c"
    blob.parent.mkdir()
    (save_file if suffix == ".safetensors" else torch.save)(model.state_dict(), blob)
    link = tmp_path / f"model{suffix}"
    link.symlink_to(blob)
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"name: own\nmodel: {{arch: '{HERE}:plain', checkpoint: model{suffix}}}\n")
    for chosen in (load_recipe(str(recipe)), adapted("digits_lenet", None, checkpoint=link)):
        assert chosen.model.checkpoint == str(link)
        assert same(opened(Path(chosen.model.checkpoint), plain), model)


def test_a_relative_path_is_made_absolute_and_stays_a_link(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "blob").touch()
    (tmp_path / "x.pth").symlink_to("blob")
    monkeypatch.chdir(tmp_path)
    assert adapted("digits_lenet", None, Path("x.pth")).model.checkpoint == str(tmp_path / "x.pth")
