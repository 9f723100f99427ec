"""Where a step's network inputs come from: images, or frozen features computed once."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from neumeta_cli.distill.frozen import Split, find_split, run_live
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import Manifold
from neumeta_cli.reporting import Reporter
from neumeta_cli.tasks import Classification

FEATURE_BYTES = 10 << 30  # more than this is not held in memory
COMPUTE_BATCH = 500


@dataclass(frozen=True)
class Batch:
    """What one step needs: the network's scores for generated weights, labels, teacher's scores."""

    index: Tensor
    labels: Tensor
    inputs: tuple[Tensor, ...]
    teacher: Tensor | None


class ImageSource:
    """Augmented images; the whole network runs in every step."""

    def __init__(
        self,
        task: Classification,
        teacher: Mapping[str, Tensor] | None,
        manifold: Manifold,
        device: torch.device,
    ) -> None:
        self.task, self.teacher, self.manifold, self.device = task, teacher, manifold, device

    def batch(self, index: Tensor, generator: torch.Generator) -> Batch:
        """Fetch and augment; the teacher sees the same images."""
        assert self.task.train is not None
        x = self.task.inputs(self.task.train, index, generator).to(self.device)
        scores = None
        if self.teacher is not None:
            with torch.no_grad():
                scores = functional_call(self.manifold.structure, dict(self.teacher), (x,))
        labels = self.task.train.labels[index].to(self.device)
        return Batch(index, labels, (x,), scores)

    def run(self, network: nn.Module, tensors: dict[str, Tensor], batch: Batch) -> Tensor:
        """The network's scores with these weights."""
        scores: Tensor = functional_call(network, tensors, batch.inputs)
        return scores


class FeatureSource:
    """Frozen features of several augmented copies of every image, held in memory as float16."""

    def __init__(
        self,
        split: Split,
        features: tuple[Tensor, ...],
        teacher: Tensor,
        labels: Tensor,
        input_size: tuple[int, int, int],
        device: torch.device,
    ) -> None:
        self.split, self.features, self.teacher = split, features, teacher
        self.labels, self.input_size, self.device = labels, input_size, device

    def batch(self, index: Tensor, generator: torch.Generator) -> Batch:
        """Each image comes as one of its copies, drawn at random."""
        view = torch.randint(len(self.teacher), index.shape, generator=generator)
        inputs = tuple(f[view, index].to(self.device).float() for f in self.features)
        teacher = self.teacher[view, index].to(self.device)
        return Batch(index, self.labels[index].to(self.device), inputs, teacher)

    def run(self, network: nn.Module, tensors: dict[str, Tensor], batch: Batch) -> Tensor:
        """The network's scores with these weights, from the features on."""
        return run_live(network, tensors, self.split, batch.inputs, self.input_size)


def open_source(
    manifold: Manifold,
    tensors: Mapping[str, Tensor],
    task: Classification,
    views: int,
    distill: bool,
    seed: int,
    device: torch.device,
    reporter: Reporter,
) -> ImageSource | FeatureSource:
    """Choose where inputs come from, and compute frozen features if ``views`` asks for them.

    Raises:
        NeumetaError: the features would not fit in memory.

    """
    weights = {name: t.to(device) for name, t in tensors.items()}
    if views:
        live = {spec.name for spec in manifold.specs}
        source = _compute_features(manifold, weights, live, task, views, seed, device, reporter)
        if source is not None:
            return source
    return ImageSource(task, weights if distill else None, manifold, device)


def _compute_features(
    manifold: Manifold,
    tensors: Mapping[str, Tensor],
    live: set[str],
    task: Classification,
    views: int,
    seed: int,
    device: torch.device,
    reporter: Reporter,
) -> FeatureSource | None:
    assert task.train is not None
    images, structure = task.train, manifold.structure
    generator = torch.Generator().manual_seed(seed)
    first = task.inputs(images, torch.arange(2), generator).to(device)
    split = find_split(structure, tensors, live, first)
    if split is None or not _replays(structure, tensors, split, first):
        return None
    count = views * len(images)
    needed = 2 * count * sum(f[0].numel() for f in split.features)
    if needed > FEATURE_BYTES:
        most = FEATURE_BYTES * views // needed
        raise NeumetaError(
            f"fit.views={views} needs {needed >> 30} GiB of memory for features; "
            f"use at most {most} views or fewer images (--set fit.views={most})"
        )
    stored = tuple(
        torch.empty(views, len(images), *f.shape[1:], dtype=torch.float16) for f in split.features
    )
    scores = torch.empty(views, len(images), *split.output.shape[1:])
    reporter.start("frozen features", count)
    for view in range(views):
        for index in torch.arange(len(images)).split(COMPUTE_BATCH):
            x = task.inputs(images, index, generator).to(device)
            part = find_split(structure, tensors, live, x)
            assert part is not None
            for place, values in zip(stored, part.features, strict=True):
                place[view, index] = values.half().cpu()
            scores[view, index] = part.output.float().cpu()
            reporter.advance(len(index))
    reporter.finish()
    if not all(bool(s.isfinite().all()) for s in stored):
        return None  # beyond float16's range: run the whole network instead
    size = manifold.blueprint.input_size
    return FeatureSource(split, stored, scores, images.labels, size, device)


@torch.no_grad()
def _replays(structure: nn.Module, tensors: Mapping[str, Tensor], split: Split, x: Tensor) -> bool:
    """Whether the live part alone really gives what the whole network gave."""
    try:
        again = run_live(structure, tensors, split, split.features, tuple(x.shape[1:]))
    except Exception:  # a forward that cannot run on meta tensors, whatever it raises
        return False
    return torch.allclose(again, split.output, rtol=1e-4, atol=1e-5)
