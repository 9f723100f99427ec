"""How alike networks are: linear CKA of features, KL divergence of outputs (the paper's Fig. 9)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate.records import Similarity
from neumeta_cli.tasks import Task

BATCH = 250
MOST_PLACES = 8  # of features, along each side of an image


@dataclass(frozen=True)
class Observed:
    """What a network gives for n images: features (n, d), scores (n, classes) where it has any."""

    features: Tensor
    scores: Tensor | None


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment (Kornblith et al., 2019), 0 to 1; 0 if one never varies.

    Args:
        x: features of n inputs, (n, d).
        y: others of the same inputs, (n, e).

    """
    x, y = (t.double() - t.double().mean(0) for t in (x, y))
    if max(x.shape[1], y.shape[1]) > len(x):  # the same by the inputs' Gram matrices
        k, m = x @ x.T, y @ y.T
        own, shared = k.norm() * m.norm(), (k * m).sum()
    else:
        own, shared = (x.T @ x).norm() * (y.T @ y).norm(), (y.T @ x).square().sum()
    return float(shared / own) if own > 0 else 0.0


def output_divergence(p: Tensor, q: Tensor) -> float:
    """KL(softmax p ‖ softmax q), the mean over inputs; p and q are scores (n, classes)."""
    log_p, log_q = (F.log_softmax(t.double(), dim=1) for t in (p, q))
    return float(F.kl_div(log_q, log_p, reduction="batchmean", log_target=True))


@torch.no_grad()
def observe(model: nn.Module, task: Task, count: int, layer: str | None = None) -> Observed:
    """Features and scores for the first ``count`` test images of a fixed shuffle.

    Args:
        model: a network.
        task: its test images.
        count: how many of them.
        layer: whose outputs are the features; the inputs of the last linear layer if None.

    Raises:
        NeumetaError: no such layer.

    """
    generator = torch.Generator().manual_seed(0)
    index = torch.randperm(len(task.test), generator=generator)[:count]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    module = feature_layer(model, task, layer)
    features: list[Tensor] = []
    scores: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen = inputs[0] if layer is None else output
        pooled = F.adaptive_avg_pool2d(seen, MOST_PLACES) if _is_large(seen) else seen
        features.append(pooled.flatten(1).float().cpu())

    handle = module.register_forward_hook(keep)
    try:
        for part in index.split(task.rows(BATCH)):
            outputs = model(task.inputs(task.test, part, None).to(device))
            if (found := task.distribution(outputs)) is not None:
                scores.append(found.float().cpu())
    finally:
        handle.remove()
    return Observed(torch.cat(features), torch.cat(scores) if scores else None)


def similarity(
    gammas: Sequence[float | None], observed: Sequence[Observed], full: Observed
) -> Similarity:
    """CKA of each network with the full one and of each pair, and KL(row ‖ column) of each pair.

    Args:
        gammas: of the networks, None for the checkpoint.
        observed: what each gave.
        full: what the checkpoint gave.

    """
    scores = [o.scores for o in observed if o.scores is not None]
    pairs = [[1.0] * len(observed) for _ in observed]  # symmetric, 1 with itself
    for row, column in combinations(range(len(observed)), 2):
        value = linear_cka(observed[row].features, observed[column].features)
        pairs[row][column] = pairs[column][row] = value
    return Similarity(
        gammas=list(gammas),
        cka=[linear_cka(o.features, full.features) for o in observed],
        kl=[[output_divergence(a, b) for b in scores] for a in scores] if scores else None,
        cka_pairs=pairs,
    )


class Likeness:
    """Gathers what networks give, the checkpoint first, to tell how alike they are.

    Args:
        task: its test images.
        images: how many of them.
        layer: see ``observe``.

    """

    def __init__(self, task: Task, images: int, layer: str | None) -> None:
        self.task, self.images, self.layer = task, images, layer
        self._seen: dict[float | None, Observed] = {}
        self._able = True

    def see(self, network: nn.Module, gamma: float | None = None) -> None:
        """Look at a network; at the checkpoint if γ is None."""
        try:
            self._seen[gamma] = observe(network, self.task, self.images, self.layer)
        except NeumetaError:  # it has no such layer, or one that does not give one tensor, once
            self._able = False

    @property
    def found(self) -> Similarity | None:
        """How alike they are; None if there are no features to compare."""
        if not self._able or None not in self._seen:
            return None
        return similarity([*self._seen], [*self._seen.values()], self._seen[None])


def _is_large(seen: Tensor) -> bool:
    """Whether features are so many places of an image that they are averaged over neighbours."""
    return seen.dim() == 4 and min(seen.shape[-2:]) > MOST_PLACES


@torch.no_grad()
def feature_layer(model: nn.Module, task: Task, name: str | None) -> nn.Module:
    """The layer of this name, or the last linear layer or convolution that a forward pass calls.

    Raises:
        NeumetaError: no such layer, or one that does not give one tensor, once.

    """
    modules = dict(model.named_modules())
    if name is not None and name not in modules:
        raise NeumetaError(f"compare.layer: no layer {name!r} in the network; see: neumeta trace")
    called: list[tuple[nn.Module, bool]] = []
    plain = [m for m in modules.values() if isinstance(m, nn.Linear | nn.Conv2d)]
    handles = [
        module.register_forward_hook(
            lambda module, _, output: called.append((module, isinstance(output, Tensor)))
        )
        for module in (plain if name is None else [modules[name]])
    ]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        model(task.inputs(task.test, torch.arange(1), None).to(device))
    finally:
        for handle in handles:
            handle.remove()
    chosen = [module for module, usable in called if usable]
    if not chosen or chosen.count(chosen[-1]) > 1:
        raise NeumetaError(
            "no layer whose outputs are one tensor, once in a forward pass; name another one with "
            "compare.layer"
        )
    return chosen[-1]
