"""Networks with more blocks than their checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from manifolds import INR, NOISE, RESNET, saved_manifold, small_images, tiny_manifold
from model_checks import randomise
from test_depth import Adds, Loops, exported_and_loaded
from torch import Tensor, nn

import neumeta_cli
from neumeta_cli.checkpoint import Arch, resolve
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export import export_network
from neumeta_cli.manifold import Manifold, build_manifold, inr_settings, save_manifold
from neumeta_cli.resize import open_frame
from neumeta_cli.resize.longer import add_blocks, silent_weights

SMALL = {
    "timm/test_vit": ({"img_size": 32, "patch_size": 8}, (3, 32, 32)),
    "timm/test_convnext": ({}, (3, 64, 64)),
    "timm/mobilenetv3_small_050": ({}, (3, 64, 64)),
    "timm/regnetx_002": ({}, (3, 64, 64)),
    "torchvision/resnet50": ({}, (3, 64, 64)),
}


def manifold_of(name: str) -> Manifold:
    kwargs, size = SMALL[name]
    arch = Arch(name, kwargs)
    model = randomise(arch.build("cpu")).requires_grad_(False)
    return build_manifold(model, arch, size, "all", False, INR, NOISE)[0].requires_grad_(False)


def grown(manifold: Manifold, count: int = 2) -> Manifold:
    runs = [run for run in manifold.frame.runs if run.most > len(run.blocks)]
    return manifold.longer({run.removable[-1]: count for run in runs})


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_added_blocks_change_nothing_at_any_width(name: str) -> None:
    manifold = manifold_of(name)
    longer, x = grown(manifold), small_images(manifold, 2)
    assert longer.frame.added
    for width in (1.0, 0.6):
        one, other = (m.sample(width, samples=0) for m in (manifold, longer))
        assert torch.equal(one(x), other(x))
        count = [len(list(network.parameters())) for network in (one, other)]
        assert count[1] > count[0]


def test_added_blocks_learn() -> None:
    """Their weights are zero where what they add is made, and nowhere else."""
    network = grown(tiny_manifold(RESNET), 1).sample(0.5).train().requires_grad_(True)
    network(torch.randn(4, 3, 32, 32)).square().sum().backward()
    added = network.layer1[2].added[0]
    assert not added.bn2.weight.any()
    assert not added.bn2.bias.any()
    assert bool(added.bn2.weight.grad.any())
    assert torch.equal(added.conv1.weight, network.layer1[2].conv1.weight)
    assert added.conv1.weight.data_ptr() != network.layer1[2].conv1.weight.data_ptr()


def test_blocks_that_take_more_arguments() -> None:
    model = Loops().eval()
    frame = open_frame(model, (8,))
    silent = silent_weights(frame.trace.operators, "block2")
    assert silent == {"block2.second.bias", "block2.second.weight"}
    x = torch.randn(5, 8)
    wanted = model(x)[0]
    add_blocks(model, {"block2": 1})
    assert len(model.block2.added) == 1
    assert not torch.equal(model(x)[0], wanted)
    with torch.no_grad():
        for name in silent:
            model.get_parameter(f"block2.added.0.{name.removeprefix('block2.')}").zero_()
    assert torch.equal(model(x)[0], wanted)


def test_statistics_of_norms_are_copied() -> None:
    """They are no weights: with variances of 0, a norm's first learnt weight would count 316."""
    frame = open_frame(resolve(RESNET).build(), (3, 32, 32)).longer({"layer1.2": 1})
    ones = {f"layer1.2.bn2.{name}": torch.ones(4) for name in ("weight", "bias", "running_var")}
    kept = {name: bool(tensor.all()) for name, tensor in frame.copied(ones).items()}
    assert kept == {
        "layer1.2.added.0.bn2.weight": False,
        "layer1.2.added.0.bn2.bias": False,
        "layer1.2.added.0.bn2.running_var": True,
    }


def test_names_of_a_network_are_its_own() -> None:
    model = Loops().eval()
    model.block1.added = nn.Identity()
    with pytest.raises(ValueError, match=r"block1 has something called added already"):
        add_blocks(model, {"block1": 1})


class Scales(Adds):
    """A block that also scales what it was given, so that no weights make it do nothing."""

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return 0.5 * x + super().forward(x, scale)


def test_a_block_that_cannot_be_silent_is_refused() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 12, 4, stride=4)
            self.blocks = nn.Sequential(*(Scales(12) for _ in range(3)))
            self.head = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.blocks(self.stem(x).mean((2, 3))))

    model = Whole().eval().requires_grad_(False)
    arch = Arch("a:b")
    manifold, _ = build_manifold(model, arch, (3, 8, 8), "all", False, INR, NOISE)
    with pytest.raises(NeumetaError, match=r"no block can be added"):
        manifold.requires_grad_(False).longer({"blocks.2": 1})


@pytest.mark.parametrize("fold", [False, True])
def test_an_export_with_more_blocks_loads_and_computes_the_same(tmp_path: Path, fold: bool) -> None:
    manifold = tiny_manifold(RESNET, fold).longer({"layer1.2": 1, "layer3.2": 2})
    exported, loaded = exported_and_loaded(manifold.without(["layer2.1"]), tmp_path)
    assert len(loaded.layer3[2].added) == 2
    x = small_images(manifold, 2)
    checkpoint = neumeta_cli.load_checkpoint(exported.path)  # and is a checkpoint like any other
    again = open_frame(checkpoint.model, checkpoint.input_size).with_scope("all")
    narrow = again.build(again.sizes(1.0), checkpoint.model.state_dict())
    assert torch.equal(narrow(x), exported.model(x))


@pytest.mark.slow
def test_an_onnx_export_with_more_blocks(tmp_path: Path) -> None:
    manifold = tiny_manifold(RESNET).longer({"layer1.2": 1})
    assert export_network(manifold, tmp_path / "long.onnx", 0.5).path.is_file()  # it is compared


@pytest.mark.slow
def test_export_and_info_with_a_depth_above_one(neumeta, tmp_path: Path) -> None:
    file = saved_manifold(tmp_path, RESNET)
    told = neumeta(
        "export", file, "--width", 0.5, "--depth", "1.67,layer1=2", "-o", "s.pt", "--json", "-"
    )
    assert told.code == 0, told.stderr
    document = json.loads(told.stdout)
    assert document["added"] == {"layer2.2": 2, "layer3.2": 2}
    assert len(document["dropped"]) == 1
    assert "2 after layer2.2, 2 after layer3.2" in neumeta("info", "s.pt").stdout
    longer = neumeta_cli.load("s.pt")
    assert len(longer.layer2[2].added) == 2


def test_export_names_the_blocks_that_were_asked_for(neumeta, tmp_path: Path) -> None:
    """Of a fit that trained copies after others too."""
    inr = inr_settings(
        "selected", knots=[0.5], store="float32", added={"layer1.2": 1, "layer3.2": 1}
    )
    manifold = tiny_manifold(RESNET, inr=inr)
    for addition in manifold.inr.additions.values():
        addition.add_(0.01)
    assert manifold.inr.learnt == {"layer1.2": 1, "layer3.2": 1}
    file = save_manifold(tmp_path / "m.safetensors", manifold)
    told = neumeta("export", file, "--width", 0.5, "--depth", "layer1=4", "-o", "s.pt")
    assert told.code == 0, told.stderr
    assert "depth: 1 after layer1.2 added, which the fit trained" in told.stderr
    assert "layer3.2" not in told.stderr
    told = neumeta("export", file, "--width", 0.5, "--depth", "layer1=5", "-o", "t.pt")
    assert "of which the fit trained 1 after layer1.2; the others change nothing" in told.stderr


def test_networks_without_runs_say_so(neumeta, tmp_path: Path) -> None:
    file = saved_manifold(tmp_path)
    told = neumeta("export", file, "--depth", "2", "-o", "s.pt")
    assert told.code == 1
    assert "no block of this network can" in told.stderr
