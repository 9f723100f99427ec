"""The search for an architecture by tensors, with and without what earlier searches learnt."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from timm.models import register_model

from neumeta_cli.checkpoint import Arch, detect, known
from neumeta_cli.checkpoint.fitting import fit_arch
from neumeta_cli.checkpoint.known import cache_file
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Silent
from neumeta_cli.signatures import likeliness

FAMILIES = {
    "zoo": {name: [name] for name in ("lenet", "cifar_resnet20", "cifar_resnet32")},
    "torchvision": {name: [name] for name in ("resnet18", "resnet34", "squeezenet1_1")},
    "timm": {
        "resnet18": ["resnet18", "resnet34", "resnetblur18", "resnet10t"],
        "test_vit": ["test_vit", "test_vit2", "test_vit3"],
        "mobilenetv3_small_050": ["mobilenetv3_small_050", "mobilenetv3_small_075"],
    },
}
SEARCHED = [
    ("torchvision/resnet18", {}),
    ("torchvision/resnet34", {"num_classes": 7}),
    ("zoo/cifar_resnet32", {}),
    ("timm/test_vit", {"num_classes": 3}),
    ("timm/mobilenetv3_small_075", {"in_chans": 1}),
    ("timm/resnet50", {}),
]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Some architectures of each library, in no table, and a file that no search has written."""
    file = tmp_path / "cache" / "names.json"
    monkeypatch.setattr(detect, "alike", lambda shapes: {})
    monkeypatch.setattr(detect, "listed", lambda library: None)
    monkeypatch.setattr(detect, "_families", FAMILIES.get)
    monkeypatch.setattr(known, "cache_file", lambda: file)
    return file


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the architectures that are built, one after another."""
    build, names = Arch.build, []

    def counted(self: Arch, device: str = "meta") -> torch.nn.Module:
        names.append(self.name)
        return build(self, device)

    monkeypatch.setattr(Arch, "build", counted)
    return names


def search(tensors: dict[str, torch.Tensor]) -> list[tuple[str, dict[str, object]]] | str:
    """What fits, or what the user is told."""
    try:
        arch, others = detect.detect_arch(Path("weights.pth"), tensors, Silent())
    except NeumetaError as error:
        return str(error)
    return [(found.name, dict(found.kwargs)) for found in (arch, *others)]


def by_building_all(tensors: dict[str, torch.Tensor]) -> list[Arch]:
    """Without names that are known, and with every initialisation."""
    tops = {name.partition(".")[0] for name in tensors}
    fitting = []
    for library, families in FAMILIES.items():
        for family, members in families.items():
            probe = Arch(f"{library}/{family}").build().state_dict()
            if {name.partition(".")[0] for name in probe} == tops:
                tried = [fit_arch(Arch(f"{library}/{name}"), tensors) for name in members]
                fitting += [fitted.arch for fitted in tried if not fitted.mismatch]
    return fitting


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kwargs"), SEARCHED, ids=[name for name, _ in SEARCHED])
def test_a_search_finds_what_building_everything_finds(few: Path, name: str, kwargs) -> None:
    """The first, which learns the names, and the next, which knows them."""
    tensors = Arch(name, kwargs).build().state_dict()
    wanted = by_building_all(tensors)
    first, again = search(tensors), search(tensors)
    assert first == again
    if wanted:
        wanted.sort(key=lambda arch: likeliness(arch.name))
        assert first == [(arch.name, dict(arch.kwargs)) for arch in wanted]
    else:
        assert "fits no architecture" in first
    assert (len(wanted) == 0) == (name == "timm/resnet50")


def test_a_second_search_builds_only_what_has_the_same_names(few: Path, built: list[str]) -> None:
    tensors = Arch("torchvision/resnet18").build().state_dict()
    search(tensors)
    assert "timm/test_vit" in built
    built.clear()
    search(tensors)
    libraries = [name for name in built if not name.startswith("zoo/")]
    assert libraries == ["torchvision/resnet18", "timm/resnet18", "timm/resnetblur18"]


def damages(whole: bytes) -> Iterator[bytes]:
    yield b""
    yield whole[: len(whole) // 2]
    yield b"[]"
    yield b'{"sum": "", "entries": {"timm/resnet18": 3}}'
    yield b"[" * 100_000
    yield b"\xff" * 20
    yield whole.replace(b"conv1", b"conv2")  # what it says is no longer what was written


@pytest.mark.slow
def test_a_damaged_file_of_names_is_learnt_again(few: Path, monkeypatch) -> None:
    one_family = {"zoo": {}, "torchvision": {}, "timm": {"resnet18": ["resnet18", "resnet10t"]}}
    monkeypatch.setattr(detect, "_families", one_family.get)
    tensors = Arch("timm/resnet10t").build().state_dict()
    wanted = search(tensors)
    whole = few.read_bytes()
    for damaged in damages(whole):
        few.write_bytes(damaged)
        assert search(tensors) == wanted
        assert few.read_bytes() == whole
    assert [path.name for path in few.parent.iterdir()] == [few.name]


def test_a_search_does_without_a_folder_for_names(few: Path, monkeypatch) -> None:
    tensors = Arch("zoo/cifar_resnet20").build().state_dict()
    few.parent.write_text("no folder")
    assert search(tensors) == [("zoo/cifar_resnet20", {})]
    monkeypatch.setattr(known, "cache_file", lambda: None)
    assert search(tensors) == [("zoo/cifar_resnet20", {})]


def test_names_lie_in_the_users_cache_folder(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = cache_file()
    assert file.parent == tmp_path / "neumeta"
    assert timm.__version__ in file.name

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_file() is None


def test_a_network_that_a_user_registers_is_looked_at_each_time(few: Path, monkeypatch) -> None:
    """It may have changed since; so may ours, with our code."""

    def of_a_user(pretrained: bool = False, **kwargs: object) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(3, width))

    registry = timm.models._registry
    monkeypatch.setattr(registry, "_model_entrypoints", dict(registry._model_entrypoints))
    register_model(of_a_user)
    families = FAMILIES | {"timm": FAMILIES["timm"] | {"of_a_user": ["of_a_user"]}}
    monkeypatch.setattr(detect, "_families", families.get)
    for width in (4, 5):
        tensors = {"0.weight": torch.zeros(width, 3), "0.bias": torch.zeros(width)}
        assert search(tensors) == [("timm/of_a_user", {})]
    written = few.read_text("utf-8")
    assert "timm/resnet18" in written
    assert "of_a_user" not in written
    assert "zoo/" not in written


@pytest.mark.parametrize(
    "name",
    [
        *("torchvision/densenet121", "torchvision/googlenet", "torchvision/swin_t"),
        *("timm/test_convnext", "timm/test_nfnet", "timm/levit_128s", "timm/test_vit_relpos"),
        "zoo/unet_resnet18",
    ],
)
def test_without_values_a_network_has_the_same_tensors(name: str) -> None:
    plain = Arch(name).build().state_dict()
    with known.WithoutValues():
        quick = Arch(name).build().state_dict()
    assert {n: (t.shape, t.dtype) for n, t in quick.items()} == {
        n: (t.shape, t.dtype) for n, t in plain.items()
    }


def test_values_of_real_tensors_still_change_without_those_of_the_meta_device() -> None:
    with known.WithoutValues():
        assert torch.nn.init.constant_(torch.zeros(3), 2.0).tolist() == [2.0] * 3
        assert torch.zeros(2).add_(1).tolist() == [1.0, 1.0]
