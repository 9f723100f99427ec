"""Files that are no weights, layers that no fit can use, and builds of libraries that differ."""

import argparse
import collections
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Told
from safetensors.torch import save_file
from saved_files import HERE, opened, plain, prefixed, renaming, same, trained
from torch import Tensor, nn
from torch.nn.utils import prune

from neumeta_cli.checkpoint import (
    Arch,
    check_resizable,
    load_checkpoint,
    recorded_arch,
)
from neumeta_cli.checkpoint.fitting import fit_arch
from neumeta_cli.checkpoint.known import WithoutValues
from neumeta_cli.checkpoint.naming import IGNORED
from neumeta_cli.cli.adapting import adapted
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export import describe
from neumeta_cli.manifold import check_opens
from neumeta_cli.pipeline import run_recipe

# What is no state dict of weights.


class Unknown:
    """Of a class that torch does not let pass."""


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        (argparse.Namespace(lr=0.1), r"argparse.Namespace \(save vars\(args\)\)"),
        (np.float64(0.5), r"multiarray.scalar \(a numpy number: save float\(x\)\)"),
        (np.zeros(2), r"multiarray._reconstruct \(a numpy array: save torch.from_numpy\(x\)\)"),
        (collections.defaultdict(int), r"collections.defaultdict \(save dict\(x\)\)"),
        (Path("x"), r"pathlib\.(_local\.)?PosixPath \(save str\(path\)\)"),
        (Unknown(), rf"{Unknown.__module__}.Unknown"),
        (nn.ReLU(), r"torch.nn.modules.activation.ReLU"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_class_in_the_file_is_named(tmp_path: Path, beside: object, said: str, zipped) -> None:
    content = {"state_dict": plain().state_dict(), "args": beside}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(NeumetaError, match=f"pickled Python code, .*{said}.* never run"):
        opened(tmp_path / "x.pth", plain)


def test_programs_and_plain_pickles_say_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(plain()), path)
    with pytest.raises(NeumetaError, match="is TorchScript, not a state dict"):
        opened(path, plain)
    with (tmp_path / "x.pkl").open("wb") as file:
        pickle.dump(plain().state_dict(), file)
    with pytest.raises(NeumetaError, match="pickled Python code"):
        opened(tmp_path / "x.pkl", plain)


@pytest.mark.slow
def test_an_exported_program_says_what_it_is(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "x.pt2")
    path = (tmp_path / "x.pt2").rename(tmp_path / "x.pt")
    with pytest.raises(NeumetaError, match=r"is a program of torch.export .*, not a state dict"):
        opened(path, plain)


def _quantised(t: Tensor) -> Tensor:
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)


def _with(value: float) -> Callable[[Tensor], Tensor]:
    return lambda t: t.index_fill(0, torch.tensor([1]), value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_quantised, "is quantised"),
        (lambda t: t.to_sparse(), "is sparse"),
        (lambda t: t.flatten(1).to_sparse_csr(), "another shape"),
        (lambda t: (10 * t).to(torch.int8), "holds int8 numbers"),
        (lambda t: (10 * t).to(torch.uint8), "holds uint8 numbers"),
        (lambda t: t > 0, "holds bool numbers"),
        (lambda t: t.to(torch.float8_e4m3fn), "holds float8_e4m3fn numbers"),
        (lambda t: t[:1].expand_as(t), "is an expanded tensor"),
        (lambda t: t.to("meta"), "is on the meta device"),
        (_with(float("nan")), "has 27 values that are NaN"),
        (_with(float("inf")), "has 27 infinite values"),
        (_with(-float("inf")), "has 27 infinite values"),
        (lambda t: _with(float("nan"))(t).half(), "has 27 values that are NaN"),
    ],
)
def test_tensors_that_are_no_weights_are_named(
    tmp_path: Path, change: Callable[[Tensor], Tensor], said: str
) -> None:
    state = prefixed("module.", trained(plain).state_dict())
    state["module.conv.weight"] = change(state["module.conv.weight"])
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(NeumetaError, match=rf"conv.weight.* {said}|{said}.*conv.weight"):
        opened(tmp_path / "x.pth", plain)


def test_statistics_that_are_infinite_are_refused_and_masks_are_not(tmp_path: Path) -> None:
    model = trained(masked)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    assert same(opened(tmp_path / "x.pth", masked), model)
    state = trained(plain).state_dict() | {"norm.running_var": torch.full((4,), torch.inf)}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(NeumetaError, match=r"norm.running_var has 4 infinite values"):
        opened(tmp_path / "x.pth", plain)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.register_buffer("mask", torch.full((8, 8), -torch.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) + self.mask).softmax(-1)


def masked() -> nn.Module:
    return Masked()


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_network_is_told_as_one(tmp_path: Path) -> None:
    small = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(5, 3)), {nn.Linear})
    torch.save(small.state_dict(), tmp_path / "x.pth")
    with pytest.raises(NeumetaError, match="it is quantised: give the weights from before"):
        opened(tmp_path / "x.pth", renaming)


def test_an_expanded_tensor_that_would_fill_the_memory_is_named(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3), "b": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "x.pt")
    with pytest.raises(NeumetaError, match=r"would take .* in the expanded tensor b .* not read"):
        opened(tmp_path / "x.pt", plain)


# Other builds of libraries' networks, and names that changed.


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("torchvision/googlenet", {"aux_logits": False}),
        ("torchvision/googlenet", {"aux_logits": True, "num_classes": 7}),
        ("torchvision/inception_v3", {"aux_logits": False, "num_classes": 5}),
        ("torchvision/lraspp_mobilenet_v3_large", {"num_classes": 4}),
        ("torchvision/deeplabv3_mobilenet_v3_large", {"aux_loss": True, "num_classes": 4}),
        ("timm/resnet18", {"num_classes": 0}),
        ("timm/test_vit", {"num_classes": 0, "in_chans": 1}),
        ("timm/test_vit", {"img_size": 96}),
        ("timm/test_vit", {"global_pool": "avg", "num_classes": 3, "img_size": 80}),
        ("timm/test_vit3", {"global_pool": "avg"}),
        ("timm/test_vit", {"global_pool": "map", "num_classes": 0}),
        ("timm/resnet18", {"global_pool": "catavgmax"}),
        ("timm/eva02_tiny_patch14_224", {"num_classes": 3, "img_size": 112}),
        ("torchvision/vit_b_32", {"image_size": 96, "num_classes": 3}),
    ],
)
def test_a_library_is_asked_for_the_build_that_the_tensors_need(
    name: str, kwargs: dict[str, Any]
) -> None:
    with WithoutValues():
        saved = Arch(name, kwargs).build().state_dict()
        found = fit_arch(Arch(name), saved)
    assert not found.mismatch
    assert all(found.tensors[name] is tensor for name, tensor in saved.items())
    usual = {"aux_logits": True}
    assert dict(found.arch.kwargs) == {k: v for k, v in kwargs.items() if usual.get(k) != v}
    if side := kwargs.get("img_size", kwargs.get("image_size")):
        assert found.arch.default_input_size()[1:] == (side, side)


def test_a_user_who_wants_classes_gets_no_network_without(tmp_path: Path) -> None:
    state = Arch("timm/resnet18", {"num_classes": 0}).build("cpu").state_dict()
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(NeumetaError, match=r"2 missing \(fc.weight, fc.bias\)"):
        load_checkpoint(tmp_path / "x.pth", Arch("timm/resnet18", {"num_classes": 10}))


@pytest.mark.parametrize("named", [None, "googlenet"])
def test_inputs_are_rescaled_as_torchvision_does_for_its_own_weights(
    tmp_path: Path, named: str | None
) -> None:
    """Which no state dict tells, so it is said aloud; what a file records is kept."""
    told, path = Told(), tmp_path / "googlenet.safetensors"
    own = {"transform_input": True, "aux_logits": False}
    model = Arch("torchvision/googlenet", own).build("cpu")
    save_file(dict(model.state_dict()), path)
    found = load_checkpoint(path, named, reporter=told)
    assert same(found.model, model, (1, 3, 64, 64))
    assert any("transform_input=True, as for torchvision's own weights" in x for x in told.lines)
    plain_arch = Arch("torchvision/googlenet", {"aux_logits": False})
    assert recorded_arch(plain_arch.as_dict(), trusted=False) == plain_arch


RENAMED: dict[str, tuple[str, Callable[[str], str]]] = {
    "densenets": (
        "torchvision/densenet121",
        lambda n: n.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."),
    ),
    "densenets in timm": (
        "timm/densenet121",
        lambda n: n.replace("norm2.", "norm.2.") if "denselayer" in n else n,
    ),
    "vision transformers": (
        "torchvision/vit_b_32",
        lambda n: n.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."),
    ),
    "convnexts": (
        "timm/test_convnext",
        lambda n: n.replace("head.fc.", "head.").replace("head.norm.", "norm."),
    ),
}


def test_a_users_module_renames_what_it_renames_itself(tmp_path: Path) -> None:
    model = trained(renaming)
    state = {n.replace("weight", "kernel"): t for n, t in model.state_dict().items()}
    torch.save({"net": prefixed("module.", state)}, tmp_path / "x.pth")
    assert same(opened(tmp_path / "x.pth", renaming), model, (2, 5))


@pytest.mark.parametrize("which", RENAMED)
def test_names_that_libraries_have_changed_are_read(which: str) -> None:
    name, old = RENAMED[which]
    with WithoutValues():
        made = Arch(name).build("cpu" if "test" in name else "meta").state_dict()
        now = {n: tensor for n, tensor in made.items() if not n.endswith(IGNORED)}
        state = {f"module.{old(n)}": tensor for n, tensor in now.items()}
        found = fit_arch(Arch(name), state)
    assert not found.mismatch
    for n, tensor in now.items():
        assert found.tensors[n] is tensor or torch.equal(found.tensors[n], tensor)
    assert found.converted == any(old(n) != n for n in now)


def test_embeddings_of_another_size_are_not_interpolated() -> None:
    """As timm would while it changes old names."""
    with WithoutValues():
        state = Arch("timm/test_vit", {"img_size": 96}).build().state_dict()
        state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].flatten(1)
        found = fit_arch(Arch("timm/test_vit", {"img_size": 160}), state)
    assert found.mismatch or found.tensors["pos_embed"] is state["pos_embed"]


# Layers that cannot be resized.


def small(change: Callable[[nn.Module], nn.Module], norm: bool = True) -> nn.Module:
    return nn.Sequential(change(nn.Conv2d(3, 4, 3)), *([nn.BatchNorm2d(4)] if norm else []))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            small(nn.utils.weight_norm),
            r"weight of 0, .*parametrizations.weight_norm",
        ),
        (small(nn.utils.weight_norm, norm=False), r"hook makes the weight of 0, "),
        (small(lambda m: prune.l1_unstructured(m, "weight", 0.5)), r"weight of 0, .*prune.remove"),
        (small(lambda m: prune.random_structured(m, "weight", 0.5, 0)), r"weight of 0, "),
        (small(nn.utils.spectral_norm), r"weight of 0, .* norm.fold=false"),
        (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), "0 keeps no statistics"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_the_fit(model: nn.Module, said: str) -> None:
    with pytest.raises(NeumetaError, match=said):
        check_resizable("mine:Net", model, fold=True)


@pytest.mark.parametrize(
    "model",
    [
        small(nn.utils.parametrizations.weight_norm),
        small(nn.utils.parametrizations.spectral_norm),
        small(nn.utils.spectral_norm, norm=False),
        plain(),
    ],
)
def test_what_can_be_sampled_is_not_refused(model: nn.Module) -> None:
    check_resizable("mine:Net", model, fold=True)


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3))


@pytest.mark.filterwarnings("ignore")
def test_a_layer_without_sizes_is_named(tmp_path: Path) -> None:
    torch.save(plain().state_dict(), tmp_path / "x.pth")
    with pytest.raises(NeumetaError, match=r"0\.weight has no size yet"):
        opened(tmp_path / "x.pth", lazy)


# Architectures that nobody names.


def test_a_wrapped_file_tells_its_architecture(tmp_path: Path, monkeypatch) -> None:
    model = Arch("zoo/cifar_resnet20").build("cpu")
    state = {**prefixed("module.", model.state_dict()), "criterion.weight": torch.ones(10)}
    torch.save({"anything": state}, tmp_path / "cifar_resnet20.pth")
    found = load_checkpoint(tmp_path / "cifar_resnet20.pth")
    assert found.arch.name == "zoo/cifar_resnet20"
    assert same(found.model, model, (1, 3, 32, 32))


def test_a_near_miss_of_what_the_name_says_is_told_at_once(tmp_path: Path, monkeypatch) -> None:
    from neumeta_cli.checkpoint import detect

    monkeypatch.setattr(detect, "_candidates", lambda *_: pytest.fail("searched"))
    state = Arch("torchvision/resnet18").build("cpu").state_dict()
    del state["layer1.0.conv1.weight"]
    torch.save(state, tmp_path / "my_resnet18.pth")
    said = r"does not fit torchvision/resnet18, which its name says: 1 missing \(layer1.0.conv1"
    with pytest.raises(NeumetaError, match=said):
        load_checkpoint(tmp_path / "my_resnet18.pth")


def test_an_architecture_that_is_given_is_not_searched_for(tmp_path: Path, monkeypatch) -> None:
    from neumeta_cli.checkpoint import load as loading

    monkeypatch.setattr(loading, "detect_arch", lambda *_: pytest.fail("searched"))
    torch.save(trained(plain).state_dict(), tmp_path / "small.pth")
    document = describe(tmp_path / "small.pth", arch=f"{HERE}:plain")
    assert document["arch"]["name"] == f"{HERE}:plain"
    assert document["source"] == {"key": "", "copies": [], "left_out": []}
    assert json.dumps(document)


def test_the_state_of_a_stopped_fit_is_told_as_one(tmp_path: Path) -> None:
    """It has several state dicts, of which nobody has to choose."""
    state = trained(plain).state_dict()
    content = {"field": state, "average": state, "optimizer": {}, "step": 7, "sums": {"loss": 0.1}}
    torch.save({**content, "good": content, "noise": torch.get_rng_state()}, tmp_path / "state.pt")
    assert describe(tmp_path / "state.pt")["kind"] == "state of a fit"
    assert describe(tmp_path / "state.pt")["step"] == 7


def test_a_run_is_not_resumed_with_other_weights_of_its_file(tmp_path: Path) -> None:
    recipe = adapted("digits_lenet", None, tmp_path / "x.pth", weights_key="ema")
    model = recipe.model.model_copy(
        update={"weights_key": None, "arch": f"{flat.__module__}:flat", "input_size": (1, 8, 8)}
    )
    other = recipe.model_copy(update={"model": model})
    torch.save(flat().state_dict(), tmp_path / "x.pth")
    (tmp_path / "recipe.yaml").write_text(recipe.as_yaml(), "utf-8")
    with pytest.raises(NeumetaError, match="begun with the weights under ema"):
        run_recipe(other, tmp_path, resume=True)


def flat() -> nn.Module:
    """For the 8×8 digits."""
    inner = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*inner, nn.Linear(4, 10))


def test_a_manifold_that_gives_no_network_is_no_success(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "m.safetensors")
    with pytest.raises(NeumetaError, match="was written and cannot be used"):
        check_opens(tmp_path / "m.safetensors")
