"""The commands as users type them, and what they say when something is wrong."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import ONE_EPOCH, DigitsFit, relative_error
from safetensors.torch import save_file

import neumeta_cli
from neumeta_cli.checkpoint import load_checkpoint
from neumeta_cli.shipped import recipe_files


def fails(result, *words: str, code: int = 1) -> None:
    """One clear line on stderr, nothing on stdout, no traceback."""
    assert result.code == code
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in lines[0]


@pytest.fixture
def manifold_file(digits_fit: DigitsFit, tmp_path: Path) -> Path:
    """A copy of a manifold of the digits LeNet, which a test may damage."""
    return Path(shutil.copy(digits_fit.manifold, tmp_path))


def test_the_main_job_from_recipe_to_small_network(
    neumeta, digits_fit: DigitsFit, tmp_path: Path
) -> None:
    shutil.copytree(digits_fit.folder / "runs", "runs", symlinks=True)
    rows = digits_fit.table["rows"]
    methods = {(r["method"], r["gamma"]) for r in rows}
    gammas = (0.0, 0.25, 0.5, 0.75)
    assert methods == {
        ("checkpoint", 0.0),
        *(("NeuMeta", g) for g in gammas),
        *(("ℓ1 pruning", g) for g in gammas),
    }
    at = {(r["method"], r["gamma"]): r for r in rows}
    assert at["NeuMeta", 0.5]["parameters"] == at["ℓ1 pruning", 0.5]["parameters"]
    whole = at["checkpoint", 0.0]["metrics"]
    assert at["ℓ1 pruning", 0.0]["metrics"] == whole
    assert whole["top-1"] > 0.95
    run = tmp_path / "runs" / "latest"
    files = ["recipe.yaml", "trace.json", "permuted.safetensors", "manifold.safetensors"]
    for name in [*files, "metrics.jsonl", "report/table.json", "report/over_gamma.png"]:
        assert (run / name).stat().st_size > 0
    assert neumeta("export", "--width", "0.5", "-o", "small.pt", "-q").code == 0
    small = neumeta_cli.load("small.pt")
    assert sum(p.numel() for p in small.parameters()) == at["NeuMeta", 0.5]["parameters"]
    measured = neumeta("eval", "small.pt", "-q", "--json", "-")
    row = json.loads(measured.stdout)["rows"][0]
    assert row["metrics"] == at["NeuMeta", 0.5]["metrics"]
    assert neumeta("info", "small.pt").code == 0


@pytest.mark.slow
def test_fit_goes_on_where_it_stopped(neumeta, digits_fit: DigitsFit) -> None:
    shutil.copytree(digits_fit.folder / "runs" / "latest", "a run")
    fit = ["fit", "-r", "digits_lenet", *ONE_EPOCH, "-q", "--run", "a run"]
    again = neumeta(*fit, "--resume", "--json", "-")
    assert json.loads(again.stdout)["fit"]["epochs"] == 1
    fails(neumeta("fit", "-r", "cifar10_resnet20", "--resume"), "no run of cifar10_resnet20")


@pytest.mark.slow
def test_resnet18_permutes_and_loads_strictly(neumeta, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=7).eval()
    torch.save(model.state_dict(), "resnet18.pth")
    result = neumeta("permute", "resnet18.pth", "--solver", "greedy", "--plot", "before after.png")
    assert result.code == 0
    assert "same function" in result.stdout
    other = torchvision.models.resnet18(num_classes=7).eval()
    permuted = torch.load("resnet18.permuted.pth", weights_only=True)
    other.load_state_dict(permuted, strict=True)
    x = torch.randn(1, 3, 64, 64)
    assert relative_error(other(x), model(x)) < 1e-4
    assert not torch.equal(other.layer1[0].conv1.weight, model.layer1[0].conv1.weight)
    assert (tmp_path / "before after.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_permuting_keeps_wrappers_dtypes_values_and_other_entries(
    neumeta, resnet20_file: Path, dtype: torch.dtype
) -> None:
    state = torch.load(resnet20_file, weights_only=True)
    cast = {f"module.{k}": v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    torch.save({"epoch": 7, "state_dict": cast, "best": {"acc": 0.5}}, "wrapped_cifar_resnet20.pth")
    assert neumeta("permute", "wrapped_cifar_resnet20.pth", "-q").code == 0
    out = torch.load("wrapped_cifar_resnet20.permuted.pth", weights_only=True)
    assert (out["epoch"], out["best"]) == (7, {"acc": 0.5})
    assert list(out["state_dict"]) == list(cast)
    for name, tensor in out["state_dict"].items():
        assert tensor.dtype == cast[name].dtype
        assert torch.equal(tensor.flatten().sort().values, cast[name].flatten().sort().values)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--solver", "python-tsp"],
        ["--solver", "python-tsp:simulated_annealing", "--time-limit", "0.2"],
        ["--norm", "l2"],
        ["--weighting", "equal"],
        ["--weighting", "producer", "--seed", "3"],
    ],
)
def test_permuting_has_options_that_repeat_themselves(neumeta, build, options: list[str]) -> None:
    torch.save(build("lenet_digits")[0].state_dict(), "lenet_digits.pth")
    timed = "--time-limit" in options
    first = neumeta("permute", "lenet_digits.pth", *options, "--json", "-")
    again = neumeta("permute", "lenet_digits.pth", *options, "--overwrite", "--json", "-")
    assert first.code == again.code == 0
    one, two = (json.loads(r.stdout)["cliques"] for r in (first, again))
    assert timed or [c["order"] for c in one] == [c["order"] for c in two]
    assert all(c["tv_after"] <= c["tv_before"] for c in one)


def test_an_unknown_solver_is_named(neumeta, resnet20_file: Path) -> None:
    fails(neumeta("permute", resnet20_file, "--solver", "lkh"), "unknown solver 'lkh'", "2.5-opt")
    assert neumeta("permute", resnet20_file, "--norm", "l3").code == 2


def test_a_permuted_safetensors_file_tells_its_architecture(neumeta, resnet20_file: Path) -> None:
    assert neumeta("permute", resnet20_file, "-o", "anything.safetensors", "-q").code == 0
    assert load_checkpoint(Path("anything.safetensors")).arch.name == "zoo/cifar_resnet20"


def test_trace_tells_cliques_as_json_tree_and_picture(neumeta, resnet20_file: Path) -> None:
    result = neumeta("trace", resnet20_file, "--json", "-", "--plot", "graph.svg")
    document = json.loads(result.stdout)
    assert len(document["cliques"]) == 12
    assert document["share_governed"] > 0.999  # all but the bias of the ten classes
    picture = Path("graph.svg").read_text("utf-8")
    assert "layer3.2.conv1  64" in picture  # which makes so many channels
    for clique in document["cliques"]:
        assert f">{clique['name']}<" in picture  # in the legend
    assert "held" not in picture
    tree = neumeta("trace", "timm/resnet10t")
    assert tree.code == 0
    assert "cliques" in tree.stdout


@pytest.mark.slow
def test_the_architecture_is_found_from_names_and_shapes(neumeta, resnet20_file: Path) -> None:
    os.rename(resnet20_file, "weights.pth")
    assert neumeta("trace", "weights.pth").code == 0


@pytest.mark.slow
def test_several_architectures_that_fit_are_told_and_the_likeliest_is_taken(neumeta) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), "weights.pth")
    told = neumeta("trace", "weights.pth").stderr
    assert "weights.pth: torchvision/resnet18; timm/resnet18, timm/resnetblur18 would fit" in told


def test_own_architectures_by_module_and_factory(neumeta) -> None:
    Path("mynet.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))\n"
    )
    result = neumeta("trace", "mynet:make", "--input-size", "3,2,2", "--json", "-")
    assert [c["channels"] for c in json.loads(result.stdout)["cliques"]] == [8]
    fails(neumeta("trace", "mynet:absent"), "mynet has no 'absent'")
    fails(neumeta("trace", "nowhere:make"), "cannot import 'nowhere'")


@pytest.mark.slow
def test_eval_widens_too(neumeta, manifold_file: Path) -> None:
    result = neumeta(
        "eval", manifold_file, "--widths", "1.5,1", "--samples", "0", "--json", "-", "-q"
    )
    wide, full = json.loads(result.stdout)["rows"]
    assert wide["parameters"] > full["parameters"]
    assert (
        neumeta("export", manifold_file, "--width", "1.5", "-o", "wide.safetensors", "-q").code == 0
    )
    assert neumeta_cli.load("wide.safetensors").conv1.out_channels == 24


def test_recipes_list_show_and_schema(neumeta) -> None:
    assert set(json.loads(neumeta("recipes", "list", "--json", "-").stdout)) == set(recipe_files())
    shown = neumeta("recipes", "show", "cifar10_resnet20", "--all").stdout
    Path("again.yaml").write_text(shown)
    assert neumeta("recipes", "show", "again.yaml", "--all").stdout == shown
    assert "learning_rate: 0.0002  # Adam's" in shown
    assert "properties" in json.loads(neumeta("recipes", "schema").stdout)


@pytest.mark.parametrize(
    "command", ["trace", "permute", "distill", "fit", "export", "eval", "info"]
)
def test_every_help_has_an_example(neumeta, command: str) -> None:
    result = neumeta(command, "--help")
    assert result.code == 0
    assert f"Example: neumeta {command}" in " ".join(result.stdout.split())


# What users get wrong.


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hacked",)


def test_a_pickle_that_carries_code_is_never_run(neumeta) -> None:
    with open("evil.pth", "wb") as file:
        pickle.dump({"state_dict": Payload()}, file)
    torch.save({"state_dict": Payload()}, "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        fails(neumeta("permute", name), name, "pickled Python code")
    assert not Path("hacked").exists()


def test_files_that_are_not_there_or_not_whole(neumeta, resnet20_file: Path) -> None:
    whole = resnet20_file.read_bytes()
    fails(neumeta("permute", "none.pth"), "no such file: none.pth")
    fails(neumeta("permute", "."), "is a folder")
    Path("empty.pth").touch()
    fails(neumeta("permute", "empty.pth"), "empty.pth is empty")
    for cut in (10, len(whole) // 2, len(whole) - 10):
        Path("cut.pth").write_bytes(whole[:cut])
        fails(neumeta("permute", "cut.pth"), "cannot read cut.pth")
    Path("text.pth").write_text("hello")
    fails(neumeta("info", "text.pth"), "cannot read text.pth")
    Path("text.txt").write_text("hello")
    fails(neumeta("info", "text.txt"), "unknown ending '.txt'")
    torch.save({"epoch": 3}, "none.pth")
    fails(neumeta("info", "none.pth"), "holds no state dict of tensors")
    torch.save([1, 2], "list.pth")
    fails(neumeta("info", "list.pth"), "holds a list")


def test_weights_of_another_architecture_name_the_keys(neumeta, resnet20_file: Path) -> None:
    result = neumeta("permute", resnet20_file, "--arch", "torchvision/resnet18")
    fails(result, "does not fit torchvision/resnet18", "missing (", "layer4.0.conv1.weight")
    state = torch.load(resnet20_file, weights_only=True)
    state["layer1.0.conv1.weight"] = torch.zeros(3, 16, 3, 3)
    torch.save(state, resnet20_file)
    result = neumeta("permute", resnet20_file, "--arch", "cifar_resnet20")
    fails(result, "layer1.0.conv1.weight is 3×16×3×3, not 16×16×3×3")


@pytest.mark.slow
def test_an_unknown_architecture_has_suggestions(neumeta, resnet20_file: Path) -> None:
    fails(neumeta("trace", resnet20_file, "--arch", "resnet_18"), "did you mean", "resnet18")
    save_file({"a": torch.zeros(2)}, "odd.safetensors")
    fails(neumeta("trace", "odd.safetensors"), "fits no architecture", "--arch")


@pytest.mark.parametrize("width", ["0", "-0.5", "nan", "half", "inf"])
def test_widths_that_are_no_widths(neumeta, manifold_file: Path, width: str) -> None:
    fails(neumeta("export", manifold_file, "--width", width, "-o", "x.pt"), "width")
    assert not Path("x.pt").exists()


def test_unwritable_output_leaves_nothing(neumeta, manifold_file: Path) -> None:
    Path("file").touch()
    before = sorted(os.listdir())
    fails(
        neumeta("export", manifold_file, "--width", "1", "-o", "file/x.pt"),
        "cannot write file/x.pt",
    )
    fails(neumeta("export", manifold_file, "--width", "1", "-o", "x.exe"), "x.exe", ".safetensors")
    assert sorted(os.listdir()) == before


def test_a_full_disk_leaves_the_old_file(neumeta, manifold_file: Path, monkeypatch) -> None:
    Path("small.pt").write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", full)
    result = neumeta("export", manifold_file, "--width", "0.5", "-o", "small.pt", "--overwrite")
    fails(result, "cannot write small.pt: No space left on device")
    assert Path("small.pt").read_text() == "old"
    assert not [name for name in os.listdir() if "partial" in name]


def test_data_folders_that_do_not_fit(neumeta, resnet20_file: Path, image_folder: Path) -> None:
    fit = ["fit", "-r", "cifar10_resnet20", "--checkpoint", resnet20_file, "--data"]
    fails(neumeta(*fit, "nowhere"), "no such data folder: nowhere")
    Path("empty").mkdir()
    fails(neumeta(*fit, "empty"), "empty holds no images")
    for split in ("train", "test"):
        Path("empty", split, "cat").mkdir(parents=True)
    fails(neumeta(*fit, "empty"), "holds no images")
    shutil.copytree(image_folder, "nine")
    for split in ("train", "test"):
        shutil.rmtree(Path("nine", split, "class9"))
    fails(neumeta(*fit, "nine"), "have 9 classes (class0, ", "the network gives 10 scores")
    broken = Path("nine", "test", "class0", "0.png")
    broken.write_text("no image")
    fails(neumeta(*fit, "nine"), "cannot read image", "0.png")
    assert not Path("runs").exists()


def test_a_recipe_without_its_data_says_how_to_give_them(neumeta) -> None:
    fails(
        neumeta("fit", "--recipe", "imagenet_r18"),
        "--data DIR",
        "--checkpoint FILE",
        "train/<class>",
    )


def test_wrong_recipes_are_refused_at_once(neumeta) -> None:
    fails(neumeta("fit", "-r", "digits_lent"), "did you mean digits_lenet")
    fit = ["fit", "-r", "digits_lenet", "--set"]
    fails(neumeta(*fit, "fit.epoch=3"), "did you mean fit.epochs")
    fails(neumeta(*fit, "fit.epochs=many"), "fit.epochs", "valid integer", "'many'")
    fails(neumeta(*fit, "fit.epochs"), "section.field=value")
    Path("wrong.yaml").write_text("name: x\nmodel: {arch: lenet}\nfit: {epocs: 3}\n")
    fails(neumeta("fit", "-r", "wrong.yaml"), "wrong.yaml", "did you mean fit.epochs")
    Path("broken.yaml").write_text("a: [")
    fails(neumeta("fit", "-r", "broken.yaml"), "is not YAML")


def test_files_of_the_wrong_kind(neumeta, manifold_file: Path, resnet20_file: Path) -> None:
    small = ("--width", "1", "-o", "x.pt")
    fails(neumeta("permute", manifold_file), "is a neumeta manifold, not a checkpoint")
    fails(neumeta("export", resnet20_file, *small), "not a neumeta manifold")
    fails(neumeta("export", *small), "run neumeta fit or distill first")


WARNS = """
import warnings
from torch import nn

class Warns(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, norm_first=True, batch_first=True)
        self.encoder, self.last = nn.TransformerEncoder(layer, 1), nn.Linear(16, 3)

    def forward(self, x):
        warnings.warn("these inputs are odd")
        return self.last(self.encoder(x.flatten(2)).mean(1))

def build():
    return Warns()
"""


def test_a_command_silences_only_warnings_that_it_names(
    neumeta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch warns of the encoder's speed, which no user can mend; the network warns of its own."""
    (tmp_path / "warns.py").write_text(WARNS)
    monkeypatch.syspath_prepend(tmp_path)
    import warns

    with pytest.warns(UserWarning, match="enable_nested_tensor"):
        network = warns.build()
    torch.save(network.state_dict(), tmp_path / "own.pth")
    with pytest.warns(UserWarning, match="these inputs are odd") as heard:
        result = neumeta("trace", "own.pth", "--arch", "warns:build", "--input-size", "3,4,4")
    assert result.code == 0, result.stderr
    assert {str(warning.message) for warning in heard} == {"these inputs are odd"}


def test_debug_shows_the_traceback(neumeta) -> None:
    result = neumeta("permute", "none.pth", "--debug")
    assert result.code == 1
    assert "Traceback" in result.stderr


def test_trace_takes_users_own_networks_with_several_inputs_or_tokens(neumeta) -> None:
    result = neumeta(
        "trace", "test_structures:Transformer", "--input-size", "16:int64", "--json", "-"
    )
    assert result.code == 0
    document = json.loads(result.stdout)
    assert document["share_governed"] > 0.9
    assert {p["attribute"] for p in document["patches"]} == {"heads", "shared"}
    sizes = ["--input-size", "5", "--input-size", "5"]
    result = neumeta("trace", "test_structures:TwoBranches", *sizes)
    assert result.code == 0
    assert "encoder.2" in result.stdout
    result = neumeta("trace", "test_structures:Transformer", "--input-size", "16:int99")
    assert result.code == 1
    assert "no such type 'int99'" in result.stderr
