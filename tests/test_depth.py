"""Runs of blocks, and networks without some of them."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from manifolds import RESNET, saved_manifold, small_images, tiny_manifold
from test_cli import fails
from torch import Tensor, nn

import neumeta_cli
from neumeta_cli.checkpoint import resolve
from neumeta_cli.cli.depths import parse_depth
from neumeta_cli.data.settings import DataSection
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export import Budget, Choice, Exported, Order, Wish, export_network
from neumeta_cli.export.choose.budget import Found, Meter, widest_within
from neumeta_cli.export.choose.depth import best_depth, blocks_to_drop
from neumeta_cli.export.choose.search import Climb, Place
from neumeta_cli.manifold import Manifold
from neumeta_cli.reporting import Silent
from neumeta_cli.resize import find_runs, open_frame, without_blocks
from neumeta_cli.tasks import load_task

STAGES = ("layer1", "layer2", "layer3")
WHOLE = open_frame(resolve(RESNET).build(), (3, 32, 32)).with_scope("all")


class Adds(nn.Module):
    """A residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(channels, 6), nn.Linear(6, channels)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return x + scale * self.second(self.first(x).relu())


class Loops(nn.Module):
    """Counts its blocks, gives them more than one argument, and takes a feature out of one."""

    def __init__(self, block: type[nn.Module] = Adds, count: int = 4) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 12), nn.Linear(12, 3)
        for number in range(count):
            setattr(self, f"block{number}", block(12))
        self.count = count

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        for number in range(self.count):
            x = getattr(self, f"block{number}")(x=x, scale=0.5 + number)
            if number == 1:
                tapped = x
        return self.head(x), tapped


def runs_of(name: str) -> dict[str, tuple[int, int]]:
    """The fewest and the most blocks of each run of an architecture."""
    arch = resolve(name)
    runs = open_frame(arch.build_with_tables(), arch.default_input_size()).runs
    assert all(run.residual and not run.held for run in runs)
    return {run.name: (run.fewest, len(run.blocks)) for run in runs}


@pytest.fixture(scope="module")
def resnet() -> Manifold:
    return tiny_manifold(RESNET)


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        (RESNET, dict.fromkeys(STAGES, (1, 3))),
        ("torchvision/resnet18", {f"layer{n}": (1, 2) for n in range(1, 5)}),
        ("timm/vit_tiny_patch16_224", {"blocks": (1, 12)}),
        (
            "timm/mobilenetv3_small_050",
            {f"blocks.{n}": (1, count) for n, count in enumerate((2, 3, 2, 3), 1)},
        ),
        ("timm/regnetx_002", {"s3": (1, 4), "s4": (1, 7)}),
    ],
)  # fmt: skip
def test_stages_are_found(name: str, runs: dict[str, tuple[int, int]]) -> None:
    assert runs_of(name) == runs


def test_blocks_that_change_shapes_stay_and_it_is_said_why() -> None:
    frame = open_frame(resolve("timm/densenet121").build(), (3, 64, 64))
    assert [run.name for run in frame.runs] == [f"features.denseblock{n}" for n in range(1, 5)]
    assert all(not run.removable and "of the shape" in run.held for run in frame.runs)
    with pytest.raises(NeumetaError, match=r"no block of this network can go \(features"):
        parse_depth(["0.5"], frame.runs)


def test_blocks_in_attributes_that_take_more_arguments() -> None:
    model = Loops().eval()
    frame = open_frame(model, (8,))
    (run,) = frame.runs
    assert (run.blocks, run.residual) == (tuple(f"block{n}" for n in range(4)), True)
    x = torch.randn(5, 8)
    wanted = model.stem(x)
    for number in (0, 3):
        wanted = model.get_submodule(f"block{number}")(wanted, 0.5 + number)
    torch.testing.assert_close(
        without_blocks(model, ["block1", "block2"])(x)[0], model.head(wanted)
    )


def test_a_run_without_whose_blocks_the_network_does_not_run_is_held() -> None:
    class Needs(Loops):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            assert self.block3.first.out_features
            return super().forward(x)

    (run,) = open_frame(Needs().eval(), (8,)).runs
    assert not run.removable
    assert "out_features" in run.held or "first" in run.held


def test_the_network_is_left_as_it_was() -> None:
    model = resolve(RESNET).build("cpu")
    before = list(dict(model.named_modules()))
    frame = open_frame(model, (3, 32, 32))
    find_runs(model, frame.trace, frame.inputs)
    assert list(dict(model.named_modules())) == before


def test_full_depth_is_the_network_itself(resnet: Manifold) -> None:
    x, again = small_images(resnet, 2), resnet.without(())
    for width in (1.0, 0.5):
        assert torch.equal(again.sample(width)(x), resnet.sample(width)(x))


def test_statistics_follow_what_norms_see_without_a_block(resnet: Manifold) -> None:
    network = resnet.without(["layer1.0", "layer3.1"]).sample(1.0)
    seen: list[Tensor] = []
    network.layer3[2].bn1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(torch.cat(list(resnet.calibration.batches())))
    mean = seen[0].mean((0, 2, 3))
    torch.testing.assert_close(network.layer3[2].bn1.running_mean, mean, rtol=0.05, atol=0.05)
    whole = resnet.sample(1.0).layer3[2].bn1.running_mean
    assert float((network.layer3[2].bn1.running_mean - whole).abs().max()) > 0.05


def test_the_block_that_does_nothing_goes_first(resnet: Manifold) -> None:
    """What it adds is zero, so outputs are the same without it."""
    silent = tiny_manifold(RESNET)
    for name in ("weight", "bias"):
        silent.inr.grids[f"layer2/2/bn2/{name}"].whole.zero_()
    counts = {"layer1": 3, "layer2": 2, "layer3": 3}
    assert blocks_to_drop(silent, counts) == ("layer2.2",)


@settings(max_examples=15, deadline=None)
@given(st.fixed_dictionaries({stage: st.integers(1, 3) for stage in STAGES}), st.floats(0.3, 1.2))
def test_any_number_of_blocks_at_any_width(counts: dict[str, int], width: float) -> None:
    frame = WHOLE
    runs = {run.name: run for run in frame.runs}
    gone = [b for n, c in counts.items() for b in runs[n].removable[: len(runs[n].blocks) - c]]
    short = frame.without(gone)
    skeleton = short.skeleton(short.sizes(width))
    left = {name.rpartition(".")[0] for name, _ in skeleton.named_parameters()}
    for stage, count in counts.items():
        own = {name.split(".")[1] for name in left if name.startswith(stage)}
        assert len(own) == count
    assert short.cost(short.sizes(width)).parameters <= frame.cost(frame.sizes(width)).parameters


def exported_and_loaded(manifold: Manifold, folder: Path) -> tuple[Exported, nn.Module]:
    """At half the width, in each kind of checkpoint: what is loaded computes what was exported."""
    x = small_images(manifold, 2)
    for ending in (".pt", ".safetensors"):
        exported = export_network(manifold, folder / f"network{ending}", 0.5)
        loaded = neumeta_cli.load(exported.path)
        assert torch.equal(loaded(x), exported.model(x))
    return exported, loaded


@pytest.mark.parametrize("fold", [False, True])
def test_an_export_loads_and_computes_the_same(tmp_path: Path, fold: bool) -> None:
    manifold = tiny_manifold(RESNET, fold).without(["layer1.0", "layer2.2"])
    exported, _ = exported_and_loaded(manifold, tmp_path)
    checkpoint = neumeta_cli.load_checkpoint(exported.path)  # and is a checkpoint like any other
    again = open_frame(checkpoint.model, checkpoint.input_size)
    assert {run.name: len(run.blocks) for run in again.runs} == {
        "layer1": 2,
        "layer2": 2,
        "layer3": 3,
    }


@pytest.mark.slow
def test_an_export_to_onnx_computes_the_same(tmp_path: Path) -> None:
    manifold = tiny_manifold(RESNET).without(["layer1.0", "layer2.2"])
    exported = export_network(manifold, tmp_path / "short.onnx", 0.5)  # compared before it is kept
    assert exported.path.is_file()


@pytest.mark.slow
def test_export_with_a_depth(neumeta, tmp_path: Path) -> None:
    file = saved_manifold(tmp_path, RESNET)
    told = neumeta(
        "export", file, "--width", 0.5, "--depth", "0.67,layer1=1", "-o", "s.pt", "--json", "-"
    )
    assert told.code == 0, told.stderr
    document = json.loads(told.stdout)
    assert len(document["dropped"]) == 4
    assert sum(name.startswith("layer1") for name in document["dropped"]) == 2
    short, whole = neumeta_cli.load("s.pt"), neumeta_cli.load(file).sample(0.5)
    own, all_of = (sum(p.numel() for p in m.parameters()) for m in (short, whole))
    assert own == document["parameters"] < all_of
    assert all(name in neumeta("info", "s.pt").stdout for name in document["dropped"])
    budget = neumeta(
        "export", file, "--depth", 0.5, "--max-params", "50k", "-o", "u.pt", "--json", "-"
    )
    assert json.loads(budget.stdout)["parameters"] <= 50_000
    assert json.loads(budget.stdout)["dropped"]


@pytest.mark.parametrize(
    ("depth", "said"),
    [
        ("4.5", "above 0 and at most 4"),
        ("0", "above 0"),
        ("half", "is not a number"),
        ("layer9=1", "no run of blocks has this name (layer1, layer2, layer3)"),
        ("layer1=0", "layer1 can have 1 to 12 blocks"),
        ("layer1=13", "layer1 can have 1 to 12 blocks"),
        ("layer1=x", "write it as RUN=N"),
        ("0.5,0.6", "twice"),
    ],
)
def test_depths_that_cannot_be(neumeta, tmp_path: Path, depth: str, said: str) -> None:
    file = saved_manifold(tmp_path, RESNET)
    fails(neumeta("export", file, "--depth", depth, "-o", "s.pt"), said)
    assert not Path("s.pt").exists()


def test_trace_lists_runs(neumeta) -> None:
    told = neumeta("trace", RESNET)
    assert "blocks (export --depth): layer1 1 to 3, layer2 1 to 3, layer3 1 to 3" in told.stdout
    (first, *_) = json.loads(neumeta("trace", RESNET, "--json", "-").stdout)["runs"]
    assert first["blocks"] == ["layer1.0", "layer1.1", "layer1.2"]
    assert first["follows"] == []


@pytest.mark.parametrize(
    ("name", "follows"),
    [
        ("timm/vit_tiny_patch16_224", ("features",)),
        ("timm/eva02_tiny_patch14_224", ("features", "what blocks are given")),
        ("timm/swin_tiny_patch4_window7_224", ("drop-path", "tables of relative positions")),
        ("torchvision/convnext_tiny", ("drop-path",)),
    ],
)
def test_runs_tell_what_hangs_on_their_blocks(name: str, follows: tuple[str, ...]) -> None:
    arch = resolve(name)
    for run in open_frame(arch.build_with_tables(), arch.default_input_size()).runs:
        assert len(run.follows) == len(follows)
        assert all(map(str.startswith, run.follows, follows))


@pytest.mark.slow
def test_as_many_blocks_go_as_serve_a_budget_best(image_folder: Path) -> None:
    manifold = tiny_manifold(RESNET)
    data = DataSection(format="image_folder", root=str(image_folder))
    task = load_task(data, manifold.sample(1.0), (3, 32, 32), train=False)
    order = Order(Wish(), Budget(macs=15_000_000))
    best, going, tried = best_depth(manifold, order, task)
    assert best.frame.dropped == going[: len(best.frame.dropped)]
    values = [value for value in tried if value is not None]
    assert tried[len(best.frame.dropped)] == max(values)
    assert len(tried) <= len(best.frame.dropped) + 3
    sizes = widest_within(Choice(best, order.wish), Meter(best, order.budget)).sizes
    assert best.frame.cost(sizes).macs <= 15_000_000
    with pytest.raises(NeumetaError, match="smallest"):
        best_depth(manifold, Order(Wish(), Budget(macs=10)), task)


@pytest.mark.parametrize("wanted", [1, 3, 5])
def test_a_search_moves_between_depths_and_keeps_the_budget(wanted: int) -> None:
    """From three blocks fewer to so many, where that alone counts."""
    manifold, budget = tiny_manifold(RESNET), Budget(macs=12_000_000)
    runs = manifold.frame.runs
    going = blocks_to_drop(manifold, {run.name: run.fewest for run in runs})
    begin = manifold.without(going[:3])
    place = Place(Choice(begin, Wish()), Meter(begin, budget))
    seen: list[Found] = []

    def score(found: Found) -> float:
        seen.append(found)
        return abs(len(found.dropped) - wanted)

    climb = Climb([place.at(going[:count]) for count in range(len(going) + 1)], score, 0)
    best = climb.run(widest_within(place.choice, place.meter), 100, Silent())
    assert best.dropped == going[:wanted]
    assert manifold.without(best.dropped).frame.cost(best.sizes).macs == best.cost["macs"]
    assert all(found.cost["macs"] <= 12_000_000 for found in seen)
    assert min(found.cost["macs"] for found in seen) > 11_000_000  # it is spent at each depth
    assert len(seen) == climb.scored <= 100


@pytest.mark.slow
def test_depth_and_widths_are_searched_at_once(neumeta, tmp_path: Path, image_folder: Path) -> None:
    file = saved_manifold(tmp_path, RESNET)
    limits = ["--max-macs", "15M", "--max-size", "500KB"]
    asked = ["--depth", "auto", "--search", "--search-samples", "12", "--data", image_folder]
    told = neumeta("export", file, *limits, *asked, "-o", "s.pt", "--json", "-")
    assert told.code == 0, told.stderr
    document = json.loads(told.stdout)
    assert document["macs"] <= 15_000_000
    assert document["bytes"] <= 500_000
    assert document["search"]["images"] == document["judged_images"] == 15
    best = document["search"]["allocated" if document["search"]["improved"] else "uniform"]
    assert document["dropped"] == best["found"]["dropped"]
    loaded = neumeta_cli.load("s.pt")
    gone = [name for name in document["dropped"] if not loaded.get_submodule(name).state_dict()]
    assert gone == document["dropped"]


@pytest.mark.slow
def test_the_images_that_chose_a_depth_do_not_judge_it(
    neumeta, tmp_path: Path, image_folder: Path
) -> None:
    asked = ["export", saved_manifold(tmp_path, RESNET), "--depth", "auto", "-o", "s.pt"]
    fails(neumeta(*asked), "--depth auto needs a budget", code=2)
    told = neumeta(*asked, "--max-macs", "15M", "--data", image_folder, "--json", "-")
    assert told.code == 0, told.stderr
    document = json.loads(told.stdout)
    assert document["judged_images"] == 15  # of 30
    assert document["macs"] <= 15_000_000
    assert "on 15 images: 0: " in told.stderr
