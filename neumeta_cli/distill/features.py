"""Where a step's network inputs come from: images, or frozen features computed once."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from neumeta_cli.data.images import Asked
from neumeta_cli.distill.frozen import Split, find_split, run_live
from neumeta_cli.distill.hints import Features, Hints
from neumeta_cli.distill.stateless import run_with
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import Manifold
from neumeta_cli.reporting import Reporter
from neumeta_cli.tasks import Outputs, Task
from neumeta_cli.training.outputs import close, tensors_of

FEATURE_BYTES = 10 << 30  # more than this is not held in memory
COMPUTE_BATCH = 500


@dataclass(frozen=True)
class Batch:
    """What one step needs: inputs of the network, targets, what the teacher gives for them."""

    index: Tensor
    targets: Tensor
    inputs: tuple[Tensor, ...]
    teacher: Outputs | None
    hints: Features = field(default_factory=dict)


class ImageSource:
    """Augmented images; the whole network runs in every step.

    Args:
        task: its training images.
        teacher: whose scores the network is to come close to, none if None.
        layout: of images and kernels in memory.
        device: where to compute.
        hints: which of the teacher's features come with a batch, none if None.

    """

    def __init__(
        self,
        task: Task,
        teacher: nn.Module | None,
        layout: torch.memory_format,
        device: torch.device,
        hints: Hints | None = None,
    ) -> None:
        self.task, self.teacher, self.layout, self.device = task, teacher, layout, device
        self.hints = hints

    def expect(self, asked: Iterable[Asked]) -> None:
        """Read ahead what ``batch`` will be asked for, where images lie in files."""
        assert self.task.train is not None
        self.task.train.expect(asked, self.task.data, self.device)

    def batch(self, index: Tensor, generator: torch.Generator, part: slice = slice(None)) -> Batch:
        """Fetch and augment a part of a batch; the teacher sees the same images."""
        assert self.task.train is not None
        x, targets = self.task.batch(self.task.train, index, generator, part)
        x = x.to(self.device).contiguous(memory_format=self.layout)
        outputs, features = None, Features()
        if self.teacher is not None:
            watching: AbstractContextManager[Features] = nullcontext({})
            if self.hints:
                watching = self.hints.watching(self.teacher)
            with torch.no_grad(), watching as features:
                outputs = self.teacher(x)
        return Batch(index[part], targets.to(self.device), (x,), outputs, features)

    def run(self, network: nn.Module, tensors: dict[str, Tensor], batch: Batch) -> Outputs:
        """The network's outputs with these weights."""
        laid_out = {n: _laid_out(t, self.layout) for n, t in tensors.items()}
        return run_with(network, laid_out, batch.inputs)


class FeatureSource:
    """Frozen features of several augmented copies of every image, held in memory as float16."""

    def __init__(
        self,
        split: Split,
        features: tuple[Tensor, ...],
        teacher: Outputs,
        targets: Tensor,
        input_size: tuple[int, int, int],
        layout: torch.memory_format,
        device: torch.device,
    ) -> None:
        self.split, self.features, self.teacher = split, features, teacher
        self.targets, self.input_size = targets, input_size
        self.layout, self.device = layout, device

    def expect(self, asked: Iterable[Asked]) -> None:
        """Nothing is to be read."""

    def batch(self, index: Tensor, generator: torch.Generator, part: slice = slice(None)) -> Batch:
        """A part of a batch; each image comes as one of its copies, drawn at random."""
        views = len(self.targets)
        view = torch.randint(views, index.shape, generator=generator)[part]
        index = index[part]
        drawn = [f[view, index].to(self.device).float() for f in self.features]
        inputs = tuple(_laid_out(x, self.layout) for x in drawn)
        teacher = tree_map(lambda t: t[view, index].to(self.device), self.teacher)
        return Batch(index, self.targets[view, index].to(self.device), inputs, teacher)

    def run(self, network: nn.Module, tensors: dict[str, Tensor], batch: Batch) -> Outputs:
        """The network's outputs with these weights, from the features on."""
        laid_out = {n: _laid_out(t, self.layout) for n, t in tensors.items()}
        return run_live(network, laid_out, self.split, batch.inputs, self.input_size)


def _laid_out(tensor: Tensor, layout: torch.memory_format) -> Tensor:
    return tensor.contiguous(memory_format=layout) if tensor.dim() == 4 else tensor


def _groups(module: nn.Module) -> int:
    return module.groups if isinstance(module, nn.Conv2d) else 1


@torch.no_grad()
def _best_layout(network: nn.Module, x: Tensor) -> torch.memory_format:
    """Channels last, which convolutions with odd numbers of channels need to be quick, if it works.

    A forward that takes views of its activations refuses it. On a GPU convolutions in groups, such
    as depthwise ones, are far slower so.
    """
    if x.device.type == "cuda" and any(_groups(module) > 1 for module in network.modules()):
        return torch.contiguous_format
    weights = {n: _laid_out(t, torch.channels_last) for n, t in network.state_dict().items()}
    try:
        outputs = run_with(network, weights, (_laid_out(x, torch.channels_last),))
    except (RuntimeError, ValueError):
        return torch.contiguous_format
    same = close(outputs, network(x), rtol=1e-3, atol=1e-4)
    return torch.channels_last if same else torch.contiguous_format


def open_source(
    manifold: Manifold,
    tensors: Mapping[str, Tensor],
    task: Task,
    views: int,
    distill: bool,
    hints: Hints | None,
    seed: int,
    device: torch.device,
    reporter: Reporter,
) -> ImageSource | FeatureSource:
    """Choose where inputs come from, and compute frozen features if ``views`` asks for them.

    Raises:
        NeumetaError: the features would not fit in memory.

    """
    assert task.train is not None
    network = manifold.frame.build({}, tensors).to(device)
    few = task.inputs(task.train, torch.arange(min(2, len(task.train))), None).to(device)
    layout = _best_layout(network, few)
    if views:
        live = {spec.name for spec in manifold.specs}
        weights = {name: t.to(device) for name, t in tensors.items()}
        source = _compute_features(
            manifold, weights, live, task, views, seed, layout, device, reporter
        )
        if source is not None:
            return source
    if not distill and hints is None:
        return ImageSource(task, None, layout, device)
    teacher = manifold.frame.fold(network.cpu()).to(device)
    teacher.training = task.samples  # the norms in it are in evaluation mode
    return ImageSource(task, teacher.to(memory_format=layout), layout, device, hints)


def _compute_features(
    manifold: Manifold,
    tensors: Mapping[str, Tensor],
    live: set[str],
    task: Task,
    views: int,
    seed: int,
    layout: torch.memory_format,
    device: torch.device,
    reporter: Reporter,
) -> FeatureSource | None:
    assert task.train is not None
    images, structure = task.train, manifold.frame.model
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
    outputs = tree_map(lambda t: torch.empty(views, len(images), *t.shape[1:]), split.output)
    targets: list[Tensor] = []
    reporter.start("frozen features", count)
    batches = torch.arange(len(images)).split(COMPUTE_BATCH)
    for view in range(views):
        numbers = enumerate(batches, view * len(batches))
        asked = [(b, images.generator(generator, seed, n), slice(None)) for n, b in numbers]
        for index, (x, own) in zip(batches, task.batches(images, asked, device), strict=True):
            part = find_split(structure, tensors, live, x.to(device))
            assert part is not None
            for place, values in zip(stored, part.features, strict=True):
                place[view, index] = values.half().cpu()
            for place, values in zip(tensors_of(outputs), tensors_of(part.output), strict=True):
                place[view, index] = values.float().cpu()
            targets.append(own.cpu())
            reporter.advance(len(index))
    reporter.finish()
    if not all(bool(s.isfinite().all()) for s in stored):
        return None  # beyond float16's range: run the whole network instead
    size = manifold.input_size
    by_view = torch.cat(targets).unflatten(0, (views, len(images)))
    return FeatureSource(split, stored, outputs, by_view, size, layout, device)


@torch.no_grad()
def _replays(structure: nn.Module, tensors: Mapping[str, Tensor], split: Split, x: Tensor) -> bool:
    """Whether the live part alone really gives what the whole network gave."""
    try:
        again = run_live(structure, tensors, split, split.features, tuple(x.shape[1:]))
    except Exception:  # a forward that cannot run on meta tensors, whatever it raises
        return False
    return close(again, split.output, rtol=1e-4, atol=1e-5)
