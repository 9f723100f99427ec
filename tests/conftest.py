"""What tests share: small real networks, weights files and data folders."""

import contextlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from programs import leave_out_what_takes_long
from torch import Tensor, nn

from neumeta_cli.checkpoint import known
from neumeta_cli.checkpoint.arch import Arch, resolve
from neumeta_cli.cli import main
from neumeta_cli.compare import report
from neumeta_cli.reporting import Silent

# As many threads as OMP_NUM_THREADS says (make test: one, in a process for each core), or two; and
# the processes that tests start have as many.
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "2")))
# A machine that is busy with other things draws its examples slowly.
settings.register_profile("tests", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("tests")
REPOSITORY = Path(__file__).parent.parent
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(autouse=True, scope="session")
def names_for_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Searches for architectures leave the user's cache folder alone, and learn for the next."""
    assert request.config.cache is not None
    file = request.config.cache.mkdir("names") / known.file_name()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "cache_file", lambda: file)
        yield


draw_charts = report._charts  # as users have them
leave_out_what_takes_long()


@pytest.fixture
def with_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test that looks at the charts of a page."""
    monkeypatch.setattr(report, "_charts", draw_charts)


@pytest.fixture
def build() -> Callable[..., tuple[nn.Module, Arch]]:
    """Build a named network with random weights and random norm statistics."""

    def make(name: str, seed: int = 0) -> tuple[nn.Module, Arch]:
        torch.manual_seed(seed)
        arch = resolve(name)
        model = arch.build("cpu")
        randomise_norms(model)
        return model.requires_grad_(False), arch

    return make


def randomise_norms(model: nn.Module) -> None:
    """Give batch norms statistics and affine terms that matter."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)


@pytest.fixture
def resnet20_file(tmp_path: Path, build: Callable[..., tuple[nn.Module, Arch]]) -> Path:
    """A plain state dict of a CIFAR ResNet-20 with random weights."""
    path = tmp_path / "cifar10_resnet20.pth"
    torch.save(build("cifar_resnet20")[0].state_dict(), path)
    return path


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder of ten classes of 32×32 noise around a colour of their own."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 3)):
        for label in range(10):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            colour = np.array([label * 25, 255 - label * 25, (label * 77) % 256])
            for number in range(count):
                noise = rng.normal(0, 20, (32, 32, 3))
                pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


class Told(Silent):
    """Keeps the lines that a user would see."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, line: str) -> None:
        self.lines.append(line)


@dataclass(frozen=True)
class Result:
    """What a command printed, and its exit code."""

    code: int
    stdout: str
    stderr: str


def run_main(*arguments: object) -> int:
    """Run a command line as the installed program does, in this process; its exit code."""
    from neumeta_cli.cli.console import Settings

    Settings.quiet = Settings.debug = False
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["neumeta", *map(str, arguments)])
        try:
            main()
        except SystemExit as exit_:
            if exit_.code is not None:
                return exit_.code if isinstance(exit_.code, int) else 1
    return 0


@pytest.fixture
def neumeta(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Result]:
    """Run a command line as the installed program does, in this process and a fresh folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        return Result(run_main(*arguments), *capsys.readouterr())

    return run


# To try which precision is quicker takes longer than such a fit.
ONE_EPOCH = ("--set", "fit.epochs=1", "--set", "noise.samples=2", "--set", "fit.precision=float32")


@dataclass(frozen=True)
class DigitsFit:
    """A fit of the digits recipe after one epoch.

    Attributes:
        folder: that it ran in, with ``runs/latest``.
        table: what it told as JSON.

    """

    folder: Path
    table: dict[str, Any]

    @property
    def manifold(self) -> Path:
        return self.folder / "runs" / "latest" / "manifold.safetensors"


@pytest.fixture(scope="session")
def digits_fit(tmp_path_factory: pytest.TempPathFactory) -> DigitsFit:
    """One for all tests, which copy what they change."""
    folder, told = tmp_path_factory.mktemp("digits"), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(told):
        assert run_main("fit", "-r", "digits_lenet", *ONE_EPOCH, "-q", "--json", "-") == 0
    return DigitsFit(folder, json.loads(told.getvalue()))


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().abs().max().clamp(min=1e-300))


needs_shared = pytest.mark.skipif(
    not (SHARED / "checkpoints" / "cifar10_resnet20.pth").exists(),
    reason="the shared ResNet-20 checkpoint is not on this machine",
)
