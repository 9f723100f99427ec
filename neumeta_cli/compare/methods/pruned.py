"""Structured pruning of the checkpoint, without any training."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neumeta_cli.compare.methods.base import Bench, Method, Outcome
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate import L1_PRUNING, prune_l1
from neumeta_cli.kernels import SafeConvolutions
from neumeta_cli.resize import calibrate, has_statistics
from neumeta_cli.seeding import seeded
from neumeta_cli.trace import Clique

TAYLOR_IMAGES, TAYLOR_BATCH, HESSIAN_IMAGES = 1024, 128, 256


@dataclass(frozen=True)
class Criterion:
    """Which channels are important.

    Attributes:
        name: on the command line.
        title: in tables.
        importance: torch-pruning's importance of a group, which reads gradients that are left in
            the network; None for ``prune_l1``, which needs none.
        of_loss: whether these gradients are the loss's.

    """

    name: str
    title: str
    importance: Callable[[nn.Module, Bench], Any] | None
    of_loss: bool = False


class Pruning(Method):
    """Keep in each clique the most important channels.

    Args:
        criterion: says which these are.
        recalibrate: norm statistics are those of ``norm.images`` training images for each width,
            as they are for every other method, instead of what is left of the checkpoint's.

    """

    def __init__(self, criterion: Criterion, recalibrate: bool) -> None:
        self.criterion, self.recalibrate = criterion, recalibrate
        self.name = criterion.name + ("_bn" if recalibrate else "")
        self.label = criterion.title + (" + norm statistics" if recalibrate else "")

    def run(self, bench: Bench, folder: Path) -> Outcome:
        start = time.perf_counter()
        model = copy.deepcopy(bench.checkpoint.model).to(bench.device).eval()
        model.requires_grad_(True)  # torch-pruning leaves out what cannot be trained
        with seeded(bench.recipe.seed):
            scores = self._scores(model, bench)
        networks = {width: self._pruned(model, scores, bench, width) for width in bench.narrower}
        if 1.0 in bench.widths:
            whole = copy.deepcopy(model)
            networks[1.0] = self._calibrated(whole, bench) if self.recalibrate else whole
        state = model.state_dict().values()
        return Outcome(
            {w: n.requires_grad_(False).eval() for w, n in networks.items()},
            time.perf_counter() - start,
            0,
            sum(t.numel() * t.element_size() for t in state),
            sum(p.numel() for p in model.parameters()),
        )

    def check(self) -> None:
        if self.criterion.importance is not None:
            torch_pruning()

    @property
    def needs_labels(self) -> bool:
        return self.criterion.of_loss

    def applies(self, model: nn.Module) -> bool:
        return not self.recalibrate or any(has_statistics(m) for m in model.modules())

    def _scores(self, model: nn.Module, bench: Bench) -> dict[str, np.ndarray]:
        """Of each channel of each clique in scope, where torch-pruning gives them."""
        if self.criterion.importance is None:
            return {}
        with SafeConvolutions():
            importance = self.criterion.importance(model, bench)
        found = {}
        for clique in bench.frame.cliques:
            module, prune = _pruning_of(model, clique, bench)
            every = list(range(clique.channels))
            group = _graph(model, bench).get_pruning_group(module, prune, every)
            score = importance(group)
            if score is None or len(score) != clique.channels:
                name = self.criterion.name
                raise NeumetaError(
                    f"torch-pruning has no {name} importance for clique {clique.name}"
                )
            found[clique.name] = score.detach().cpu().numpy()
        model.zero_grad()
        return found

    def _pruned(
        self, model: nn.Module, scores: dict[str, np.ndarray], bench: Bench, width: float
    ) -> nn.Module:
        sizes = bench.frame.sizes(width)
        if not scores:
            tensors = {name: t.detach().cpu() for name, t in model.state_dict().items()}
            small = prune_l1(bench.frame, tensors, sizes).to(bench.device)
            return self._calibrated(small, bench) if self.recalibrate else small
        small = copy.deepcopy(model)
        for clique in bench.frame.cliques:
            worst = np.argsort(scores[clique.name], kind="stable")
            drop = sorted(worst[: clique.channels - sizes[clique.name]].tolist())
            if drop:
                module, prune = _pruning_of(small, clique, bench)
                _graph(small, bench).get_pruning_group(module, prune, drop).prune()
        shapes = bench.frame.shapes(sizes)
        for name, tensor in small.state_dict().items():
            if name in shapes and tuple(tensor.shape) != shapes[name]:
                raise NeumetaError(
                    f"torch-pruning makes {name} {tuple(tensor.shape)} at width {width:g}, not "
                    f"{shapes[name]}: its networks would not cost the same"
                )
        return self._calibrated(small, bench) if self.recalibrate else small

    def _calibrated(self, model: nn.Module, bench: Bench) -> nn.Module:
        images = bench.task.train
        assert images is not None
        norms = [n for n, m in model.named_modules() if has_statistics(m)]
        index = random_images(bench, bench.recipe.norm.images)
        calibrate(model, norms, bench.task.inputs(images, index, None).to(bench.device))
        return model


def torch_pruning() -> Any:
    try:
        import torch_pruning as installed
    except ImportError as error:
        raise NeumetaError(
            "pruning needs torch-pruning; install it with: pip install 'neumeta[compare]'"
        ) from error
    return installed


def random_images(bench: Bench, count: int) -> Tensor:
    """Numbers of ``count`` training images at most."""
    assert bench.task.train is not None
    generator = torch.Generator().manual_seed(bench.recipe.seed)
    return torch.randperm(len(bench.task.train), generator=generator)[:count]


def loss_on(model: nn.Module, bench: Bench, index: Tensor) -> Tensor:
    """The task's loss on training images by number."""
    assert bench.task.train is not None
    x, targets = bench.task.batch(bench.task.train, index, None)
    return bench.task.loss(model(x.to(bench.device)), targets.to(bench.device))


def leave_gradients(model: nn.Module, bench: Bench) -> None:
    """Leave in ``grad`` the gradient of the mean loss over some training images."""
    index = random_images(bench, TAYLOR_IMAGES)
    model.zero_grad()
    for part in index.split(TAYLOR_BATCH):
        (loss_on(model, bench, part) * len(part) / len(index)).backward()


def leave_squares(model: nn.Module, bench: Bench) -> None:
    """Leave in ``grad`` the mean square of the gradients of single training images.

    torch-pruning's own sum over images keeps the last one alone.
    """
    index = random_images(bench, HESSIAN_IMAGES)
    squares = {p: torch.zeros_like(p) for p in model.parameters()}
    for one in index:
        model.zero_grad()
        loss_on(model, bench, one[None]).backward()
        for p, square in squares.items():
            if p.grad is not None:
                square += p.grad.square() / len(index)
    for p, square in squares.items():
        p.grad = square


def _taylor(model: nn.Module, bench: Bench) -> Any:
    leave_gradients(model, bench)
    return torch_pruning().importance.GroupTaylorImportance()


def _hessian(model: nn.Module, bench: Bench) -> Any:
    leave_squares(model, bench)
    return torch_pruning().importance.GroupHessianImportance()


CRITERIA = (
    Criterion("l1", L1_PRUNING, None),  # Li et al., 2017
    Criterion(
        "l2", "ℓ2 pruning", lambda *_: torch_pruning().importance.GroupMagnitudeImportance(p=2)
    ),
    # Weight times gradient (Molchanov et al., 2019); optimal brain damage (LeCun et al., 1989).
    Criterion("taylor", "Taylor pruning", _taylor, of_loss=True),
    Criterion("hessian", "Hessian pruning", _hessian, of_loss=True),
    Criterion("random", "random pruning", lambda *_: torch_pruning().importance.RandomImportance()),
)
PRUNING: tuple[Method, ...] = tuple(Pruning(c, bn) for c in CRITERIA for bn in (False, True))


def _graph(model: nn.Module, bench: Bench) -> Any:
    device = next(model.parameters()).device
    example = torch.zeros(1, *bench.checkpoint.input_size, device=device)
    return torch_pruning().DependencyGraph().build_dependency(model, example)


def _pruning_of(model: nn.Module, clique: Clique, bench: Bench) -> tuple[nn.Module, Any]:
    """A layer along whose inputs or outputs the clique lies, and torch-pruning's function for it.

    Layers that make the channels come first.
    """
    pruning = torch_pruning()
    along: dict[tuple[str, int], int] = {}
    for member in clique.members:
        along[member.weight, member.dim] = along.get((member.weight, member.dim), 0) + 1
    found = []
    for (weight, dim), members in along.items():
        module: Any = model.get_submodule(weight.rpartition(".")[0])
        size = bench.frame.trace.shapes[weight][dim]
        plain = isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
        if not plain or weight.endswith("bias") or members > 1 or size != clique.channels:
            continue
        kind = "linear" if isinstance(module, nn.Linear) else "conv"
        if getattr(module, "groups", 1) == 1:
            makes = dim == (1 if isinstance(module, nn.ConvTranspose2d) else 0)
            side = "out" if makes else "in"
            function = getattr(pruning, f"prune_{kind}_{side}_channels")
            found.append((not makes, module, function))
    if not found:
        raise NeumetaError(
            f"torch-pruning cannot prune clique {clique.name}: no plain layer has it"
        )
    _, module, function = min(found, key=lambda f: f[0])
    return module, function
