"""Which architecture a file is, by a table of names and shapes."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from neumeta_cli.checkpoint import detect, load_checkpoint
from neumeta_cli.checkpoint.arch import Arch, names_of
from neumeta_cli.signatures import Signature, alike, architecture_names, likeliness


@pytest.mark.parametrize("name", ["torchvision/resnet18", "torchvision/googlenet", "timm/test_vit"])
@pytest.mark.parametrize("classes", [1000, 7])
def test_the_table_knows_a_network_whatever_its_classes(name: str, classes: int) -> None:
    state = Arch(name, {"num_classes": classes}).build().state_dict()
    found = alike({tensor: tuple(value.shape) for tensor, value in state.items()})
    assert found[name]


def test_the_table_tells_shapes_from_names() -> None:
    state = Arch("torchvision/resnet50").build().state_dict()
    found = alike({tensor: tuple(value.shape) for tensor, value in state.items()})
    assert next(iter(found)) == "torchvision/resnet50"
    assert not found["torchvision/wide_resnet50_2"]
    assert not found["torchvision/resnext50_32x4d"]
    assert alike({"a.weight": (2, 2)}) == {}


def test_a_signature_is_that_of_any_order_colours_and_counters() -> None:
    shapes = {"stem.weight": (8, 3, 3, 3), "bn.num_batches_tracked": (), "fc.weight": (10, 8)}
    known = Signature.of(shapes, ["fc"])
    other = {"fc.weight": (7, 8), "stem.weight": (8, 1, 3, 3)}
    assert Signature.of(other, ["fc"]) == known
    assert Signature.of(other | {"stem.weight": (9, 1, 3, 3)}, ["fc"]) != known


def test_the_table_names_our_networks_and_torchvisions() -> None:
    names = architecture_names()
    assert {f"zoo/{name}" for name in names_of("zoo")} <= set(names)
    assert "torchvision/resnet18" in names
    assert "timm/vit_tiny_patch16_224" in names


def test_torchvision_goes_before_timm_and_plain_ones_before_variants() -> None:
    names = ["timm/resnetblur18", "timm/resnet18", "torchvision/resnet18"]
    assert sorted(names, key=likeliness) == names[::-1]


def test_a_resnet18_of_seven_classes_is_found_by_building_it_alone(
    neumeta: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(torchvision.models.resnet18(num_classes=7).state_dict(), "model.pth")
    built: set[str] = set()
    build = Arch.build

    def counted(self: Arch, device: str = "meta") -> torch.nn.Module:
        built.add(self.name)
        return build(self, device)

    monkeypatch.setattr(Arch, "build", counted)
    monkeypatch.setattr(detect, "names_of", lambda library: {"zoo": ()}.get(library, ()))
    monkeypatch.setattr(detect, "_families", detect._families.__wrapped__)  # remembers nothing
    begun = time.process_time()
    found = load_checkpoint(Path("model.pth"))
    assert time.process_time() - begun < 5
    assert (found.arch.name, dict(found.arch.kwargs)) == (
        "torchvision/resnet18",
        {"num_classes": 7},
    )
    assert {arch.name for arch in found.others} >= {"timm/resnet18", "timm/resnetblur18"}
    assert built == {"torchvision/resnet18"}
