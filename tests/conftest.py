"""What tests share: small real networks, weights files and data folders."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from neumeta_cli.checkpoint import known
from neumeta_cli.checkpoint.arch import Arch, resolve
from neumeta_cli.cli import main
from neumeta_cli.evaluate import measure_latency

torch.set_num_threads(2)
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


@pytest.fixture(autouse=True, scope="session")
def latencies_of_a_moment() -> Iterator[None]:
    """Forward passes are timed, but not for half a second each; no test asks how long they took."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_latency, "__defaults__", (0.01,))
        yield


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


class Result:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr


@pytest.fixture
def neumeta(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Result]:
    """Run a command line as the installed program does, in this process and a fresh folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        from neumeta_cli.cli.console import Settings

        Settings.quiet = Settings.debug = False
        monkeypatch.setattr("sys.argv", ["neumeta", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().abs().max().clamp(min=1e-300))


needs_shared = pytest.mark.skipif(
    not (SHARED / "checkpoints" / "cifar10_resnet20.pth").exists(),
    reason="the shared ResNet-20 checkpoint is not on this machine",
)
