"""Code of a user's own is run without a question only where the user has named just that code."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from neumeta_cli.checkpoint import Arch, keep_given, needs_permission, recorded_arch, was_given
from neumeta_cli.checkpoint import given as module
from neumeta_cli.checkpoint.arch import import_attribute
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export import load
from neumeta_cli.tasks import task_class

NET = """from torch import nn
from given_layers import WIDTH
def make(classes=3):
    body = nn.Conv2d(1, WIDTH, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(WIDTH, classes))
"""


@pytest.fixture(autouse=True)
def project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """A folder with a network in two files, whose modules are forgotten afterwards."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "given_net.py").write_text(NET)
    (folder / "given_layers.py").write_text("WIDTH = 8\n")
    monkeypatch.setattr(module, "_file", lambda: tmp_path / "cache" / module.FILE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(folder)
    yield folder
    forget()


def forget() -> None:
    """As in a process that has not imported the code yet."""
    for name in ("given_net", "given_layers", "given_task"):
        sys.modules.pop(name, None)


def name_it(**kwargs: int) -> Arch:
    arch = Arch("given_net:make", kwargs)
    arch.build()
    keep_given(arch.name, arch.kwargs)
    forget()
    return arch


def test_what_was_named_is_known_and_nothing_is_imported_to_find_out() -> None:
    assert not was_given("given_net:make", {})
    name_it()
    assert was_given("given_net:make", {})
    assert not needs_permission("given_net:make", {})
    assert "given_net" not in sys.modules
    assert not was_given("given_net:nn", {})  # something else in the same file
    assert not was_given("given_net:make", {"classes": 4})
    name_it(classes=4)
    assert was_given("given_net:make", {"classes": 4})
    assert was_given("given_net:make", {})


@pytest.mark.parametrize("file", ["given_net.py", "given_layers.py"])
def test_code_that_has_changed_is_asked_about_again(project: Path, file: str) -> None:
    name_it()
    text = (project / file).read_text()
    (project / file).write_text(text + "# changed\n")
    assert not was_given("given_net:make", {})
    (project / file).write_text(text)
    assert was_given("given_net:make", {})
    (project / file).unlink()
    assert not was_given("given_net:make", {})


def test_the_same_names_in_another_folder_are_asked_about(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_it()
    other = tmp_path / "downloaded"
    other.mkdir()
    (other / "given_net.py").write_text(NET)
    (other / "given_layers.py").write_text("WIDTH = __import__('os').getpid()\n")
    monkeypatch.chdir(other)
    monkeypatch.setattr(sys, "path", [str(other), *sys.path])
    assert not was_given("given_net:make", {})
    monkeypatch.setattr(sys, "path", [str(project), *sys.path])  # found, and what it imports too
    assert not was_given("given_net:make", {})
    monkeypatch.chdir(project)
    assert was_given("given_net:make", {})
    monkeypatch.setattr(sys, "path", [str(other), *sys.path])  # another file comes first
    assert not was_given("given_net:make", {})


@pytest.mark.parametrize("text", ["", "[]", "{", '{"given": [{"name": 3}]}', '{"given": 7}'])
def test_a_damaged_memory_asks_and_is_replaced(tmp_path: Path, text: str) -> None:
    file = tmp_path / "cache" / module.FILE
    file.parent.mkdir()
    file.write_text(text)
    assert not was_given("given_net:make", {})
    name_it()
    assert was_given("given_net:make", {})
    assert len(json.loads(file.read_text())["given"]) == 1


def test_files_that_name_such_code_open_and_others_do_not(project: Path) -> None:
    from neumeta_cli.manifold import build_manifold, check_opens, inr_settings, save_manifold
    from neumeta_cli.manifold.settings import NoiseSection

    arch, size = Arch("given_net:make"), (1, 8, 8)
    torch.manual_seed(0)
    made = arch.build("cpu").requires_grad_(False)
    settings = inr_settings(), NoiseSection()
    manifold, _ = build_manifold(made, arch, size, "all", False, *settings)
    path = save_manifold(project / "m.safetensors", manifold)
    forget()
    with pytest.raises(NeumetaError, match="--trust-code"):
        load(path)
    check_opens(path)  # as a fit does at its end
    forget()
    assert isinstance(load(path).sample(0.5), nn.Module)
    (project / "given_net.py").write_text(NET + "# changed\n")
    forget()
    with pytest.raises(NeumetaError, match="--trust-code"):
        load(path)


def test_a_task_of_ones_own_is_known_too(project: Path) -> None:
    (project / "given_task.py").write_text(
        "from neumeta_cli import Task\nclass Mine(Task):\n    pass\n"
    )
    with pytest.raises(NeumetaError, match="--trust-code"):
        task_class("given_task:Mine", trust_code=False)
    import_attribute("given_task:Mine", "a test")
    keep_given("given_task:Mine", {})
    forget()
    assert task_class("given_task:Mine", trust_code=False).__name__ == "Mine"


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("torchvision/resnext50_32x4d", {"width_per_group": 8}),
        ("torchvision/resnet18", {"replace_stride_with_dilation": [False, True, False]}),
        ("torchvision/densenet121", {"growth_rate": 16, "drop_rate": 0.1}),
        ("timm/convnext_atto", {"drop_path_rate": 0.1, "ls_init_value": 0.5}),
        (
            "timm/swin_tiny_patch4_window7_224",
            {"img_size": [32, 32], "embed_dim": 48, "depths": [2, 2], "num_heads": [2, 4]},
        ),
    ],
)
def test_numbers_for_a_librarys_factory_need_no_permission(name: str, kwargs: dict) -> None:
    assert recorded_arch({"name": name, "kwargs": kwargs}, trusted=False) == Arch(name, kwargs)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"width_per_group": 10**6},
        {"layers": [10**6]},
        {"layers": [1] * 10**4},
        {"num_heads": [2, 10**6]},
        {"num_heads": []},
        {"img_size": [32, "32"]},
        {"drop_rate": float("inf")},
        {"drop_rate": float("nan")},
        {"norm_layer": "os.system"},
        {"pretrained_backbone": True},
        {"cache_dir": "x"},
        {"options": {"a": 1}},
    ],
)
def test_anything_else_does(kwargs: dict) -> None:
    with pytest.raises(NeumetaError, match="needs your permission"):
        recorded_arch({"name": "torchvision/resnet18", "kwargs": kwargs}, trusted=False)
