"""Several processes give what one process gives."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from programs import Program
from tiny_fits import TINY

from neumeta_cli.checkpoint import read_weights
from neumeta_cli.training import Processes
from neumeta_cli.training.synced import SyncedNorms

pytest.importorskip("accelerate", reason="several processes need accelerate")
RECIPE = """
name: tiny
model: {{arch: "tiny_fits:tiny_resnet", checkpoint: {checkpoint}, input_size: [3, 16, 16]}}
data: {{root: {data}, flip: true, crop_padding: 2{more}}}
scope: {scope}
norm: {{fold: false, images: 16}}
inr: {{kind: selected}}
permute: {{solver: identity}}
noise: {{channels: 0.5, sizes: 0.5, samples: 1}}
loss: {{recon: 1.0, reg: 1.0e-4, distill: 1.0, hint: 0.01}}
fit: {{epochs: 1, batch_size: 25, limit: 50, anchors: [0.5], mixed: 1.0, learning_rate: {rate},
  precision: float32, update: 0.5, start_images: 8}}
train: {{epochs: 2, batch_size: 25, learning_rate: {rate}, precision: float32}}
eval: {{gammas: [0.5], watch: 8}}
"""


def run_processes(count: int, command: list[str], folder: Path) -> str:
    """Run a command in ``count`` processes as launchers do; what they said."""
    # They meet in a store of this process, as those of torchrun do in its own: no port is looked
    # for that another test could take meanwhile.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    begun = []
    for rank in range(count):
        launch = {"WORLD_SIZE": count, "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": store.port}
        launch |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
        begun.append(Program(*command, cwd=folder, environment=launch, merged=True))
    told = "".join(process.communicate()[0] for process in begun)
    assert all(process.returncode == 0 for process in begun), told
    return told


@pytest.fixture
def run_command(neumeta, tmp_path: Path):
    """Run a command line in so many processes, one being this; gives what they said."""

    def run(count: int, *command: object) -> str:
        arguments = [*map(str, command), "--device", "cpu"]
        if count > 1:
            return run_processes(count, ["-m", "neumeta_cli", *arguments], tmp_path)
        result = neumeta(*arguments)
        assert result.code == 0, result.stderr
        return result.stdout + result.stderr

    return run


GRADIENTS = """
import sys, torch
import neumeta_cli.tasks.base as base
from neumeta_cli import pipeline
from neumeta_cli.distill import Fitter
from neumeta_cli.manifold import build_manifold
from neumeta_cli.recipe import load_recipe
recipes = [load_recipe(path) for path in sys.argv[2:]]
opened = [pipeline.open_inputs(recipe) for recipe in recipes]
single = base.normalise  # in float64, or ReLUs near 0 flip and hide what is wrong
base.normalise = lambda pixels, data: single(pixels, data).double()
for path, recipe, (checkpoint, task) in zip(sys.argv[2:], recipes, opened):
    manifold, tensors = build_manifold(
        checkpoint.model.double(), checkpoint.arch, checkpoint.input_size, recipe.scope, False,
        recipe.inr, recipe.noise,
    )
    fitter = Fitter(manifold.double(), tensors, task, recipe)
    fitter.stepper.take(torch.arange(25))
    gradients = {n: p.grad for n, p in manifold.inr.named_parameters() if p.grad is not None}
    if fitter.loop.processes.main:
        torch.save(gradients, path.replace(".yaml", f".{sys.argv[1]}.pt"))
"""


@pytest.fixture
def write_recipe(build, image_folder, tmp_path: Path):
    model, _ = build(TINY)
    checkpoint = tmp_path / "resnet.pt"
    torch.save(model.state_dict(), checkpoint)

    def write(scope: str, rate: float = 1e-3, more: str = "") -> Path:
        path = tmp_path / f"{scope}{rate}.yaml"
        fields = {"checkpoint": checkpoint, "data": image_folder, "scope": scope, "rate": rate}
        fields |= {"more": more}
        path.write_text(RECIPE.format(**fields), encoding="utf-8")
        return path

    return write


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(write_recipe, tmp_path) -> None:
    """Of a step on 25 images at two widths, with batch norm, of all layers and of the last."""
    recipes = [write_recipe(scope) for scope in ("all", "paper")]
    for count in (1, 2):
        run_processes(count, ["-c", GRADIENTS, str(count), *map(str, recipes)], tmp_path)
    for recipe in recipes:
        one, two = (
            torch.load(recipe.with_suffix(f".{count}.pt"), weights_only=True) for count in (1, 2)
        )
        assert one.keys() == two.keys()
        assert apart(two, one) < 1e-5 * apart(one, {n: torch.zeros(()) for n in one})


@pytest.mark.slow
def test_two_processes_fit_together(write_recipe, run_command, tmp_path: Path) -> None:
    """Adam enlarges rounding where gradients vanish, so that ends of fits agree less closely."""
    found = {}
    for name, count, rate in (("one", 1, 1e-3), ("two", 2, 1e-3), ("before", 1, 1e-30)):
        told = run_command(count, "fit", "-r", write_recipe("all", rate), "--run", tmp_path / name)
        assert told.count("2 processes share each batch") == count - 1  # and one of them speaks
        tensors = read_weights(tmp_path / name / "manifold.safetensors").tensors
        found[name] = {n: t for n, t in tensors.items() if n.startswith("inr.")}
    assert found["one"].keys() == found["two"].keys()
    assert apart(found["two"], found["one"]) < 0.15 * apart(found["one"], found["before"])


TRAINING = """
import os, signal, sys, torch
from pathlib import Path
from torch import nn
from neumeta_cli.errors import StoppedRunError
from neumeta_cli.recipe import load_recipe
from neumeta_cli.training.settings import TrainSection
from neumeta_cli.tasks import load_task
from neumeta_cli.training import Processes, train_network
from neumeta_cli.training.plain import PlainStep
recipe, folder, drop, stop_at, *resume = sys.argv[1:]
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, stride=4, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
    nn.Dropout(float(drop)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
).eval()
task = load_task(load_recipe(recipe).data, model, (3, 32, 32))
take = PlainStep.take
def stopping(self, index, place):
    if place.step == int(stop_at) and self.processes.rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return take(self, index, place)
PlainStep.take = stopping
train = TrainSection(epochs=3, batch_size=25, save_steps=3, learning_rate=1e-3, precision="float32")
path = Path(folder)
path.mkdir(exist_ok=True)
try:
    train_network(model, task, train, folder=path, resume=bool(resume))
except StoppedRunError as stopped:
    print(stopped)
else:
    torch.save(model.state_dict(), path / f"trained{Processes().rank}.pt")
"""


def trained(recipe: Path, folder: Path, count: int, drop: float) -> list[dict[str, torch.Tensor]]:
    """The small network that an uninterrupted training gave in each process."""
    run_processes(count, ["-c", TRAINING, str(recipe), str(folder), str(drop), "-1"], folder.parent)
    return [torch.load(folder / f"trained{n}.pt", weights_only=True) for n in range(count)]


@pytest.mark.slow
def test_two_processes_train_as_one_does(write_recipe, tmp_path: Path) -> None:
    """With batch norm, whose running statistics are those of whole batches in both."""
    recipe = write_recipe("all")
    [one] = trained(recipe, tmp_path / "one", 1, 0.0)
    two, other = trained(recipe, tmp_path / "two", 2, 0.0)
    assert all(torch.equal(t, other[n]) for n, t in two.items())
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", ", in_memory: 0, workers: 1"])
def test_training_in_two_processes_goes_on_to_the_same_bits(
    write_recipe, tmp_path: Path, more: str
) -> None:
    """One of them is stopped, in the middle of an epoch; the network draws what it drops."""
    recipe, cut = write_recipe("all", more=more), tmp_path / "cut"
    whole = trained(recipe, tmp_path / "whole", 2, 0.5)
    command = ["-c", TRAINING, str(recipe), str(cut), "0.5"]
    told = run_processes(2, [*command, "5"], tmp_path)
    assert told.count("stopped at step 6 of 12") == 2
    run_processes(2, [*command, "-1", "resume"], tmp_path)
    for rank, tensors in enumerate(whole):
        resumed = torch.load(cut / f"trained{rank}.pt", weights_only=True)
        assert all(torch.equal(resumed[n], t) for n, t in tensors.items())


@pytest.mark.slow
def test_train_writes_one_checkpoint_from_two_processes(
    write_recipe, run_command, tmp_path: Path
) -> None:
    """Adam enlarges rounding where gradients vanish, as in a fit."""
    found = {}
    for name, count, rate in (("one", 1, 1e-3), ("two", 2, 1e-3), ("before", 1, 1e-30)):
        output = tmp_path / f"{name}.safetensors"
        told = run_command(count, "train", "-r", write_recipe("all", rate), "-o", output)
        found[name] = {n: t.float() for n, t in read_weights(output).tensors.items()}
        assert told.count("processes share each batch") == count - 1
        assert told.count("written:") == 1
        assert not (tmp_path / f"{name}.safetensors.training").exists()
    assert apart(found["two"], found["one"]) < 0.15 * apart(found["one"], found["before"])


def apart(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    squares = [(some[n].double() - others[n].double()).square().sum() for n in others]
    return float(torch.stack(squares).sum().sqrt())


def test_synced_norms_of_one_process_are_ordinary_ones(monkeypatch) -> None:
    """The formula and its gradient, with a reduction over one process."""
    monkeypatch.setattr("torch.distributed.nn.functional.all_reduce", lambda t: t)
    x = torch.randn(6, 5, 4, 4, dtype=torch.float64).float().requires_grad_()
    weight, bias = torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True)
    found = []
    for synced in (False, True):
        if synced:
            with SyncedNorms():
                y = F.batch_norm(x, None, None, weight, bias, training=True)
        else:
            y = F.batch_norm(x, None, None, weight, bias, training=True)
        found.append((y, *torch.autograd.grad((y**3).sum(), [x, weight, bias])))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_parts_of_a_batch_are_the_whole_batch(monkeypatch) -> None:
    for count in (2, 3, 7):
        monkeypatch.setenv("WORLD_SIZE", str(count))
        places, shares = [], []
        for rank in range(count):
            monkeypatch.setenv("RANK", str(rank))
            processes = Processes()
            places += list(range(*processes.part(25).indices(25)))
            shares.append(processes.share(25))
        assert sorted(places) == list(range(25))
        assert sum(shares) == pytest.approx(count)
