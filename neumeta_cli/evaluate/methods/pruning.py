"""Structured pruning of the checkpoint, without any training, through torch-pruning."""

import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate.methods.base import Bench, Method, Outcome
from neumeta_cli.resize import calibrate, has_statistics, resized_shapes
from neumeta_cli.trace import Clique

GRADIENT_IMAGES = {"taylor": 1024, "hessian": 256}  # that importance is measured on
CRITERIA = {
    "l1": "ℓ1 pruning",
    "l2": "ℓ2 pruning",
    "taylor": "Taylor pruning",
    "hessian": "Hessian pruning",
    "random": "random pruning",
}


class Pruning(Method):
    """Keep in each clique the most important channels, by one of five criteria.

    Args:
        criterion: l1 and l2 (Li et al., 2017), taylor (Molchanov et al., 2019), hessian (optimal
            brain damage, LeCun et al., 1989) or random.
        recalibrate: norm statistics are those of ``norm.images`` training images for each width,
            as they are for every other method, instead of what is left of the checkpoint's.

    """

    def __init__(self, criterion: str, recalibrate: bool) -> None:
        self.criterion, self.recalibrate = criterion, recalibrate
        self.name = criterion + ("_bn" if recalibrate else "")
        self.label = CRITERIA[criterion] + (" + norm statistics" if recalibrate else "")

    def run(self, bench: Bench, folder: Path) -> Outcome:
        start = time.perf_counter()
        torch.manual_seed(bench.recipe.seed)
        model = copy.deepcopy(bench.checkpoint.model).to(bench.device).eval()
        model.requires_grad_(True)  # torch-pruning leaves out what cannot be trained
        scores = self._importance(model, bench)
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
        _torch_pruning()

    def applies(self, model: nn.Module) -> bool:
        return not self.recalibrate or any(has_statistics(m) for m in model.modules())

    def _importance(self, model: nn.Module, bench: Bench) -> dict[str, np.ndarray]:
        """Of each channel of each clique in scope."""
        pruning = _torch_pruning()
        importance = {
            "l1": lambda: pruning.importance.GroupMagnitudeImportance(p=1),
            "l2": lambda: pruning.importance.GroupMagnitudeImportance(p=2),
            "taylor": pruning.importance.GroupTaylorImportance,
            "hessian": pruning.importance.GroupHessianImportance,
            "random": pruning.importance.RandomImportance,
        }[self.criterion]()
        if self.criterion in GRADIENT_IMAGES:
            self._differentiate(model, bench)
        found = {}
        for clique in self._cliques(bench):
            module, prune = _pruning_of(model, clique, bench)
            every = list(range(clique.channels))
            group = _graph(model, bench).get_pruning_group(module, prune, every)
            score = importance(group)
            if score is None or len(score) != clique.channels:
                raise NeumetaError(
                    f"torch-pruning has no {self.criterion} importance for clique {clique.name}"
                )
            found[clique.name] = score.detach().cpu().numpy()
        model.zero_grad()
        return found

    def _differentiate(self, model: nn.Module, bench: Bench) -> None:
        """Leave in ``grad`` what importance is made of, over a few hundred training images.

        For Taylor's the gradient of the loss, for the Hessian's diagonal the mean square of the
        gradients of each image (torch-pruning's own sum over images keeps the last one alone).
        """
        task, images = bench.task, bench.task.train
        assert images is not None
        count = min(GRADIENT_IMAGES[self.criterion], len(images))
        generator = torch.Generator().manual_seed(bench.recipe.seed)
        index = torch.randperm(len(images), generator=generator)[:count]
        squares = {p: torch.zeros_like(p) for p in model.parameters()}
        each = self.criterion == "hessian"
        model.zero_grad()
        for part in index.split(1 if each else 128):
            x, targets = task.batch(images, part, None)
            loss = task.loss(model(x.to(bench.device)), targets.to(bench.device))
            (loss * len(part) / (1 if each else count)).backward()
            for p, square in squares.items() if each else ():
                if p.grad is not None:
                    square += p.grad.square() / count
                    p.grad = None
        for p, square in squares.items() if each else ():
            p.grad = square

    def _pruned(
        self, model: nn.Module, scores: dict[str, np.ndarray], bench: Bench, width: float
    ) -> nn.Module:
        small = copy.deepcopy(model)
        sizes = bench.sizes(width)
        for clique in self._cliques(bench):
            worst = np.argsort(scores[clique.name], kind="stable")
            drop = sorted(worst[: clique.channels - sizes[clique.name]].tolist())
            if drop:
                module, prune = _pruning_of(small, clique, bench)
                _graph(small, bench).get_pruning_group(module, prune, drop).prune()
        shapes = resized_shapes(bench.trace, sizes)
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
        generator = torch.Generator().manual_seed(bench.recipe.seed)
        index = torch.randperm(len(images), generator=generator)[: bench.recipe.norm.images]
        calibrate(model, norms, bench.task.inputs(images, index, None).to(bench.device))
        return model

    def _cliques(self, bench: Bench) -> list[Clique]:
        return [c for c in bench.trace.cliques if c.name in bench.scope]


def _torch_pruning() -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise NeumetaError(
            "pruning needs torch-pruning; install it with: pip install 'neumeta[compare]'"
        ) from error
    return torch_pruning


def _graph(model: nn.Module, bench: Bench) -> Any:
    device = next(model.parameters()).device
    example = torch.zeros(1, *bench.checkpoint.input_size, device=device)
    return _torch_pruning().DependencyGraph().build_dependency(model, example)


def _pruning_of(model: nn.Module, clique: Clique, bench: Bench) -> tuple[nn.Module, Any]:
    """A layer that makes the clique's channels, and torch-pruning's function for its outputs."""
    pruning = _torch_pruning()
    for member in clique.members:
        module = model.get_submodule(member.weight.rpartition(".")[0])
        dense = isinstance(module, nn.Linear | nn.Conv2d) and getattr(module, "groups", 1) == 1
        if member.dim == 0 and dense and len(member.positions) == clique.channels:
            linear = isinstance(module, nn.Linear)
            return module, (
                pruning.prune_linear_out_channels if linear else pruning.prune_conv_out_channels
            )
    raise NeumetaError(f"torch-pruning cannot prune clique {clique.name}: no plain layer makes it")
