"""Exported networks are checkpoints like others: trained, permuted, narrowed again, measured."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ONE_EPOCH, DigitsFit, Result, relative_error
from manifolds import INR, NOISE, RESNET, small_images, tiny_manifold
from model_checks import permutation_error, randomise
from torch import nn

import neumeta_cli
from neumeta_cli.checkpoint import Arch, load_checkpoint, resolve
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export import Finish, describe, export_network, load, save
from neumeta_cli.manifold import Manifold, build_manifold, load_manifold, save_manifold
from neumeta_cli.resize import has_statistics, open_frame

VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}
OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 12, 3)
        self.last = nn.Linear(12, 5)
        self.register_buffer("table", torch.linspace(0, 1, 64).view(8, 8), persistent=False)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x))) + self.table
        return self.last(torch.relu(self.second(x)).mean((2, 3)))
"""
SEVERAL = {  # architecture, arguments, (C, H, W)
    "lenet": ("lenet_digits", {}, (1, 8, 8)),
    "resnet": ("timm/test_resnet", {"num_classes": 5}, (3, 32, 32)),
    "squeeze-excitation": ("timm/test_efficientnet", {"num_classes": 5}, (3, 32, 32)),
    "vit": ("timm/vit_tiny_patch16_224", {**VIT, "num_classes": 5}, (3, 16, 16)),
    "own": ("networks_again_own:Net", {}, (3, 8, 8)),
}


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "networks_again_own.py").write_text(OWN)
    return tmp_path


def manifold_of(arch: Arch, model: nn.Module, size: tuple[int, int, int], fold: bool) -> Manifold:
    """With weights of its own and, where there are norms, images to calibrate them."""
    manifold, _ = build_manifold(model, arch, size, "all", fold, INR, NOISE)
    if manifold.norms:
        manifold.calibration.keep(torch.randn(8, *size), quality=90)
    return manifold.requires_grad_(False)


def first_of(outputs: object) -> torch.Tensor:
    found = outputs[0] if isinstance(outputs, tuple) else outputs
    assert isinstance(found, torch.Tensor)
    return found


def train_a_little(network: nn.Module, size: tuple[int, int, int]) -> nn.Module:
    """Two steps in training mode; the network in evaluation mode again."""
    optimizer = torch.optim.SGD(network.train().parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        first_of(network(torch.randn(4, *size))).square().mean().backward()
        optimizer.step()
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "width", "fold"),
    [
        ("lenet", 0.5, False),
        ("resnet", 0.5, True),
        ("squeeze-excitation", 0.5, False),
        ("vit", 0.5, False),
        ("own", 0.5, True),
        ("own", 1.5, False),
    ],
)
def test_an_export_is_trained_saved_permuted_and_narrowed_again(
    which: str, width: float, fold: bool, own_module: Path
) -> None:
    name, kwargs, size = SEVERAL[which]
    torch.manual_seed(0)
    arch = Arch(resolve(name).name, kwargs)
    whole = randomise(arch.build("cpu"))
    manifold = manifold_of(arch, whole, size, fold)
    file = export_network(manifold, own_module / "half.pt", width).path

    network = load(file, trust_code=True, trainable=True)
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    counted = {n: t.clone() for n, t in network.state_dict().items() if n.endswith("_tracked")}
    assert all(parameter.requires_grad for parameter in network.parameters())
    train_a_little(network, size)
    moved = [n for n, p in network.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) > 0.9 * len(before)  # some biases before a softmax have no gradient
    statistics = [m for m in network.modules() if has_statistics(m)]
    assert bool(statistics) == (not fold and any(map(has_statistics, whole.modules())))
    now = network.state_dict()
    assert all(int(now[n] - old) == 2 for n, old in counted.items())

    images = torch.randn(3, *size)
    for ending in (".safetensors", ".pt"):
        tuned = save(network, own_module / f"tuned{ending}", like=file, trust_code=True)
        again = load(tuned, trust_code=True)
        assert torch.equal(first_of(again(images)), first_of(network(images)))

    opened = load_checkpoint(tuned, trust_code=True)
    frame = open_frame(opened.model, size)
    error, changed = permutation_error(opened.model, frame.trace, size)
    assert error < 1e-12
    assert changed > 0.5

    second = manifold_of(opened.arch, opened.model, opened.input_size, fold=False)
    path = save_manifold(own_module / "second.safetensors", second)
    exported = export_network(load_manifold(path, True), own_module / "quarter.pt", 0.5)
    quarter = load(exported.path, trust_code=True)
    assert torch.equal(first_of(quarter(images)), first_of(exported.model(images)))
    counts = [sum(p.numel() for p in n.parameters()) for n in (network, quarter)]
    assert counts[1] < 0.45 * counts[0]


def test_what_is_saved_says_what_its_origin_says_but_for_old_figures(tmp_path: Path) -> None:
    rows = [{"method": "NeuMeta", "width": 0.5, "metrics": {"top-1": 0.5}}]
    manifold = tiny_manifold(table=rows)
    half = export_network(manifold, tmp_path / "half.pt", 0.5).path
    network = neumeta_cli.load(half, trainable=True)
    tuned = neumeta_cli.save(network.train(), tmp_path / "tuned.safetensors", like=half)
    assert network.training  # left as it is
    old, new = describe(half), describe(tuned)
    assert old["metrics"]
    assert "metrics" not in new
    assert "its accuracy has not been measured" in new["warnings"]
    for name in ("kind", "arch", "sizes", "width", "parameters", "macs", "data", "task", "dtype"):
        assert new[name] == old[name], name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_number_formats_are_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    manifold = tiny_manifold()
    half = export_network(manifold, tmp_path / "half.pt", 0.5).path
    network = load(half, trainable=True).to(dtype)
    again = load(save(network, tmp_path / "tuned.pt", like=half))
    images = small_images(manifold, 2, dtype)
    assert torch.equal(again(images), network.eval()(images))
    network.fc1.double()
    with pytest.raises(NeumetaError, match=r"numbers of .*float64; give all one of float32"):
        save(network, tmp_path / "other.pt", like=half)


def test_another_network_is_not_saved_like_a_file(tmp_path: Path) -> None:
    manifold = tiny_manifold()
    half = export_network(manifold, tmp_path / "half.pt", 0.5).path
    whole = save_manifold(tmp_path / "manifold.safetensors", manifold)
    with pytest.raises(NeumetaError, match=r"not that of .*half.pt: \S+ is \S+ in it and \S+ in"):
        save(manifold.sample(0.25), tmp_path / "x.pt", like=half)
    with pytest.raises(NeumetaError, match="is a manifold, not a network"):
        save(manifold.sample(0.5), tmp_path / "x.pt", like=whole)
    with pytest.raises(NeumetaError, match="is a manifold; neumeta fit trains it"):
        load(whole, trainable=True)
    with pytest.raises(NeumetaError, match="use one of the endings"):
        save(manifold.sample(0.5), tmp_path / "x.exe", like=half)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["half.pt", "manifold.safetensors"]


def test_a_checkpoint_of_anybodys_is_trained_and_saved_too(resnet20_file: Path) -> None:
    network = load(resnet20_file, trainable=True)
    train_a_little(network, (3, 32, 32))
    tuned = save(network, resnet20_file.with_name("tuned.pt"), like=resnet20_file)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(load(tuned)(images), network(images))
    assert describe(tuned)["arch"]["name"] == f"zoo/{RESNET}"  # not searched for
    folded = neumeta_cli.export.rewrite(tuned, tuned.with_name("folded.pt"), Finish(fold=True))
    again = load(folded)
    assert not any(has_statistics(module) for module in again.modules())
    assert relative_error(again(images), network(images)) < 1e-5


def test_code_of_a_users_own_is_imported_only_where_it_is_named(own_module: Path) -> None:
    arch = Arch("networks_again_own:Net")
    manifold = manifold_of(arch, randomise(arch.build("cpu")), (3, 8, 8), fold=False)
    half = export_network(manifold, own_module / "half.pt", 0.5).path
    for refused in (lambda: load(half), lambda: load_checkpoint(half)):
        with pytest.raises(NeumetaError, match="if you trust it, say --arch networks_again_own"):
            refused()
    with pytest.raises(NeumetaError, match=r"was narrowed from .*:Net, not from zoo/lenet_digits"):
        load_checkpoint(half, "lenet_digits")
    opened = load_checkpoint(half, "networks_again_own:Net")
    assert sum(p.numel() for p in opened.model.parameters()) < 1000


@pytest.fixture
def commands(
    neumeta: Callable[..., Result], digits_fit: DigitsFit
) -> Callable[..., dict[str, object]]:
    """Runs a command that is to succeed; what it tells as JSON."""

    def run(*arguments: object) -> dict[str, object]:
        told = ["--json", "-"] if arguments[0] not in ("distill", "report") else []
        result = neumeta(*arguments, *told, "-q")
        assert result.code == 0, (arguments, result.stderr)
        return json.loads(result.stdout) if told else {}

    export_network(load_manifold(digits_fit.manifold), Path("half.pt"), 0.5)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_an_export_is_written_anew_traced_and_permuted(
    commands: Callable[..., dict], ending: str
) -> None:
    half = Path(f"given{ending}")
    assert commands("export", "half.pt", "-o", half)["bytes"] == half.stat().st_size
    known = commands("info", half)
    assert (known["kind"], known["width"]) == ("network", 0.5)
    traced = commands("trace", half)
    assert {c["name"]: c["channels"] for c in traced["cliques"]} == known["sizes"]
    commands("permute", half, "-o", f"ordered{ending}", "--solver", "greedy")
    images = torch.randn(2, 1, 8, 8)
    ordered = load(f"ordered{ending}")
    assert relative_error(ordered(images), load(half)(images)) < 1e-5
    assert not torch.equal(ordered.state_dict()["conv1.weight"], load(half).conv1.weight)


@pytest.mark.slow
def test_an_export_is_trained_distilled_and_compared(commands: Callable[..., dict]) -> None:
    recipe, half = ("-r", "digits_lenet"), Path("half.pt")
    known = commands("info", half)
    commands("train", *recipe, "--init", half, "-o", "tuned.safetensors", "--epochs", 1)
    measured = [commands("eval", f, *recipe, "--no-latency") for f in (half, "tuned.safetensors")]
    rows = [m["rows"][0] for m in measured]
    assert rows[0]["parameters"] == rows[1]["parameters"] == known["parameters"]
    assert rows[1]["metrics"]["top-1"] > rows[0]["metrics"]["top-1"]
    commands("distill", "tuned.safetensors", *recipe, *ONE_EPOCH, "-o", "again.safetensors")
    commands("export", "again.safetensors", "--width", 0.5, "-o", "quarter.pt")
    quarter = commands("info", "quarter.pt")
    assert quarter["sizes"] == {name: (size + 1) // 2 for name, size in known["sizes"].items()}
    compared = commands(
        *("compare", *recipe, "--checkpoint", half, "--methods", "l1", "--widths", "1,0.5"),
        *("--run", "compared"),
    )
    assert compared["checkpoint"]["parameters"] == known["parameters"]
    commands("report", "compared")


@pytest.mark.slow
def test_a_fit_of_an_export_is_a_run_like_others(commands: Callable[..., dict]) -> None:
    table = commands(
        *("fit", "-r", "digits_lenet", "--checkpoint", "half.pt", *ONE_EPOCH, "--run", "run")
    )
    assert table["rows"][0]["parameters"] == describe(Path("half.pt"))["parameters"]
    manifold = load(Path("run/manifold.safetensors"))
    assert manifold.frame.full == describe(Path("half.pt"))["sizes"]
    assert (
        load(Path("run") / "permuted.safetensors").conv1.out_channels
        == manifold.frame.full["conv1"]
    )


@pytest.mark.slow
def test_trained_weights_become_programs(commands: Callable[..., dict]) -> None:
    network = train_a_little(load("half.pt", trainable=True), (1, 8, 8))
    save(network, "tuned.pt", like="half.pt")
    images = torch.randn(2, 1, 8, 8)
    for made in (save(network, "direct.pt2", like="half.pt"), Path("tuned.pt2")):
        if not made.exists():
            commands("export", "tuned.pt", "-o", made)
        program = torch.export.load(made).module()
        assert relative_error(program(images), network(images)) < 1e-5
        assert commands("info", made)["arch"]["name"] == "zoo/lenet_digits"
    commands("export", "tuned.pt", "-o", "tuned.onnx", "--dtype", "float16")


def test_an_export_is_no_manifold_and_keeps_its_width(neumeta: Callable[..., Result]) -> None:
    half = export_network(tiny_manifold(), Path("half.pt"), 0.5).path
    for options, said in (
        (("--width", 0.5, "-o", "x.pt"), "narrower ones: neumeta distill half.pt --data DIR"),
        (("-o", "half.pt"), "half.pt is the network itself"),
        (("-o", "x.pt", "--calibrate", "."), "half.pt has no norm statistics"),
    ):
        result = neumeta("export", half, *options)
        assert result.code == 1
        assert said in result.stderr
    assert not Path("x.pt").exists()
