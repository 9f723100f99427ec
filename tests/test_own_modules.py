"""Networks of a user's own whose modules keep or make tensors in ways of their own."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Result
from safetensors.torch import save_file
from saved_files import opened
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from neumeta_cli.checkpoint import Arch, Weights, load_checkpoint, write_weights
from neumeta_cli.cli.adapting import arch_of
from neumeta_cli.errors import NeumetaError
from neumeta_cli.permute import Ordering, check_trace, permute_checkpoint
from neumeta_cli.recipe import load_recipe
from neumeta_cli.resize import measure_cost, open_frame

HERE = "test_own_modules"
SIZE = (3, 8, 8)


def body(first: nn.Module | None = None, last: nn.Module | None = None) -> nn.Sequential:
    inside = (nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(
        first or nn.Conv2d(3, 4, 3), *inside, nn.Flatten(), last or nn.Linear(4, 3)
    )


class Prepared(nn.Module):
    """Prepares its images with tensors that torch does not know of."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()
        self.mean = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
        self.others = {"std": [torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)]}

    def forward(self, x: Tensor) -> Tensor:
        return self.body((x - self.mean) / self.others["std"][0])


class Scaled(nn.Module):
    """Has a plain tensor along its channels, of which not all are alike."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = nn.Conv2d(3, 4, 3), body(nn.Conv2d(4, 4, 1))
        self.scales = torch.linspace(0.5, 1.5, 4).view(1, 4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x) * self.scales)


class Rates(nn.Module):
    """Looks at values in its constructor, as many vision transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.rate = body(), [r.item() for r in torch.linspace(0, 1, 3)][1]

    def forward(self, x: Tensor) -> Tensor:
        return self.rate * self.body(x)


def orthogonal() -> nn.Module:
    return body(last=parametrizations.orthogonal(nn.Linear(4, 3)))


def householder() -> nn.Module:
    return body(last=parametrizations.orthogonal(nn.Linear(4, 3), orthogonal_map="householder"))


def without_base() -> nn.Module:
    return body(last=parametrizations.orthogonal(nn.Linear(4, 3), use_trivialization=False))


def normed() -> nn.Module:
    return body(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))


BUILT = [Prepared, Scaled, Rates, orthogonal, householder, without_base, normed]


@pytest.mark.parametrize("factory", BUILT)
def test_a_network_comes_back_from_its_file(tmp_path: Path, factory: Callable) -> None:
    torch.manual_seed(0)
    model, x = factory().eval(), torch.randn(2, *SIZE)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    before = torch.get_rng_state()
    found = load_checkpoint(tmp_path / "x.pth", f"{HERE}:{factory.__name__}", SIZE)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found.model(x), model(x))
    frame = open_frame(found.model, SIZE).with_scope("all")
    again = frame.build(frame.full, found.model.state_dict())
    assert torch.allclose(again(x), model(x), atol=1e-6)
    assert 0 < frame.cost(frame.sizes(0.5)).parameters < frame.cost(frame.full).parameters


def test_tensors_along_channels_that_differ_keep_their_places(tmp_path: Path) -> None:
    torch.save(Scaled().state_dict(), tmp_path / "x.pth")
    trace = open_frame(opened(tmp_path / "x.pth", Scaled), SIZE).trace
    free = {m.weight for clique in trace.cliques for m in clique.members if not clique.held}
    assert "rest.0.weight" in free
    assert "first.weight" not in free


class Fourier(nn.Module):
    """Draws frequencies at random, which its file does not hold."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        drawing = None if seed is None else torch.Generator().manual_seed(seed)
        self.body = body()
        self.scales = [torch.rand(1, 3, 1, 1, generator=drawing, device="cpu")]

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x * self.scales[0])


def seeded_fourier() -> nn.Module:
    return Fourier(seed=3)


def test_values_that_are_drawn_anew_are_refused(tmp_path: Path) -> None:
    """As nobody can know what they were in training."""
    torch.save(Fourier().state_dict(), tmp_path / "x.pth")
    with pytest.raises(NeumetaError, match="scales has other values each time that it is built"):
        opened(tmp_path / "x.pth", Fourier)
    model = seeded_fourier().eval()
    torch.save(model.state_dict(), tmp_path / "x.pth")
    x = torch.randn(2, *SIZE)
    assert torch.equal(opened(tmp_path / "x.pth", seeded_fourier)(x), model(x))


class Computed(nn.Conv2d):
    """Keeps a weight that it computed once of its parameters."""

    def __init__(self) -> None:
        super().__init__(3, 4, 3)
        self.half = 0.5 * self.weight


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: body(nn.utils.weight_norm(nn.Conv2d(3, 4, 3))), "parametrizations.weight_norm"),
        (lambda: body(prune.identity(nn.Conv2d(3, 4, 3), "bias")), "prune.remove"),
        (lambda: body(Computed()), "0 keeps half, which was computed"),
    ],
)
def test_weights_made_by_hooks_are_refused_by_whatever_traces(made: Callable, said: str) -> None:
    model = made()
    assert measure_cost(model, SIZE).parameters > 0
    with pytest.raises(NeumetaError, match=f"cannot be resized; .*{said}|{said}.*cannot be"):
        open_frame(model, SIZE)


def old_weight_norm() -> nn.Module:
    return body(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)))


@pytest.mark.filterwarnings("ignore")
def test_commands_refuse_them_in_one_line(
    neumeta: Callable[..., Result], image_folder: Path
) -> None:
    save_file(dict(old_weight_norm().state_dict()), "x.safetensors")
    given = ("x.safetensors", "--arch", f"{HERE}:old_weight_norm")
    for command in (
        ("trace", *given, "--input-size", "3,8,8"),
        ("permute", *given, "-o", "y.pth"),
        ("fit", "--checkpoint", *given, "--data", image_folder, "--run", "run"),
        ("distill", *given, "--data", image_folder),
    ):
        result = neumeta(*command)
        assert result.code == 1
        assert "a hook makes the weight of 0, which cannot be resized; use" in result.stderr
        assert result.stderr.count("error: ") == 1
    assert {path.name for path in Path().iterdir()} == {"x.safetensors"}


class Tens(nn.Sequential):
    """For images of ten classes."""

    def __init__(self) -> None:
        super().__init__(*body(last=nn.Linear(4, 10)))


@pytest.fixture
def own_recipe(neumeta: Callable[..., Result]) -> str:
    """A network of a user's own in ``x.pth``, and a recipe that names it."""
    torch.save(Tens().state_dict(), "x.pth")
    model = {"arch": f"{HERE}:Tens", "input_size": [3, 8, 8]}
    Path("own.yaml").write_text(json.dumps({"name": "own", "model": model}))
    return "own.yaml"


def test_eval_and_distill_take_the_network_that_a_recipe_names(
    neumeta: Callable[..., Result], own_recipe: str, image_folder: Path
) -> None:
    result = neumeta("eval", "x.pth", "--recipe", own_recipe, "--data", image_folder, "-q")
    assert result.code == 0, result.stderr
    result = neumeta("distill", "x.pth", "--recipe", own_recipe, "--data", "nowhere")
    assert f"x.pth: {HERE}:Tens" in result.stderr  # and then there are no images
    assert "nowhere" in result.stderr


def test_a_recipe_names_a_network_where_the_file_does_not(own_recipe: str) -> None:
    """A library's is found from the file, as a recipe may be named for its data alone."""
    own = load_recipe(own_recipe)
    assert arch_of(own, Path("x.pth"), None) == Arch(f"{HERE}:Tens")
    assert arch_of(load_recipe("digits_lenet"), Path("x.pth"), None) is None
    told = {"arch": Arch("zoo/lenet_digits").as_dict()}
    write_weights(Path("y.safetensors"), Weights(dict(Tens().state_dict()), told))
    assert arch_of(own, Path("y.safetensors"), None) is None


class Unlearned(nn.Module):
    """Has statistics of a batch at hand, which takes more than one image."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm1d(16, track_running_stats=False)
        self.body = nn.Sequential(body(), nn.Linear(3, 16), norm, nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_norms_without_statistics_are_permuted(neumeta: Callable[..., Result]) -> None:
    torch.manual_seed(0)
    model, x = Unlearned().eval(), torch.randn(5, *SIZE)
    torch.save(model.state_dict(), "x.pth")
    given = ("--arch", f"{HERE}:Unlearned")
    result = neumeta("permute", "x.pth", *given, "--input-size", "3,8,8", "-o", "y.pth")
    assert result.code == 0, result.stderr
    assert not torch.equal(*(torch.load(f)["body.1.weight"] for f in ("x.pth", "y.pth")))
    assert torch.allclose(opened(Path("y.pth"), Unlearned)(x), model(x), atol=1e-5)


def impossible() -> nn.Module:
    raise ValueError("no such depth")


def lazy_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyBatchNorm2d(affine=False))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (impossible, "impossible cannot be built: no such depth"),
        (lazy_norm, "1.running_mean has no size yet"),
    ],
)
def test_what_cannot_be_built_says_why(factory: Callable, said: str) -> None:
    with pytest.raises(NeumetaError, match=said):
        Arch(f"{HERE}:{factory.__name__}").build()


class Recurrent(nn.Module):
    """Makes the first state itself, as tutorials do."""

    def __init__(self, **dtype: torch.dtype) -> None:
        super().__init__()
        self.hidden, self.dtype = 6, dtype
        self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Linear(self.hidden, 3)
        self.cells = nn.GRU(4, self.hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        steps = self.conv(x).mean(2).transpose(1, 2)
        state = torch.zeros(1, x.shape[0], self.hidden, device=x.device, **self.dtype)
        return self.last(self.cells(steps, state)[0][:, -1])


def recurrent_in_float32() -> nn.Module:
    return Recurrent(dtype=torch.float32)


class Turned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = nn.Conv2d(3, 4, 3), body(nn.Conv2d(4, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        turn = torch.tensor([[[0.9, 0.1, 0.0], [-0.1, 0.9, 0.0]]]).expand(len(x), 2, 3)
        grid = nn.functional.affine_grid(turn, list(x.shape), align_corners=False)
        return self.rest(self.first(nn.functional.grid_sample(x, grid, align_corners=False)))


@pytest.mark.parametrize("factory", [Recurrent, recurrent_in_float32, Turned])
def test_tensors_that_a_forward_makes_are_as_exact_as_its_weights(
    tmp_path: Path, factory: Callable
) -> None:
    torch.save(factory().state_dict(), tmp_path / "x.pth")
    found = load_checkpoint(tmp_path / "x.pth", f"{HERE}:{factory.__name__}", SIZE)
    trace = open_frame(found.model, SIZE).trace
    assert not [clique.name for clique in trace.cliques if clique.held]
    assert permute_checkpoint(found, trace, Ordering("random")).error < 1e-12
    assert torch.get_default_dtype() == torch.float32


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = nn.Conv2d(3, 4, 3), body(nn.Conv2d(4, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(nn.functional.dropout(self.first(x)))


def test_a_network_that_draws_at_random_is_told_as_one(tmp_path: Path) -> None:
    torch.save(Dropping().state_dict(), tmp_path / "x.pth")
    found = load_checkpoint(tmp_path / "x.pth", f"{HERE}:Dropping", SIZE)
    with pytest.raises(NeumetaError, match="other outputs each time that it runs"):
        check_trace(found, open_frame(found.model, SIZE).trace)
