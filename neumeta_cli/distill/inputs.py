"""What layers of the checkpoint read of training images, on average."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neumeta_cli.distill.reading import (
    MOST_PIXELS,
    READING,
    feature_dim,
    reads_channels,
    spread,
)
from neumeta_cli.manifold import Manifold, Moments, Normed, TensorSpec
from neumeta_cli.reporting import Reporter
from neumeta_cli.resize import TRANSPOSED, across
from neumeta_cli.tasks import Task
from neumeta_cli.trace import Clique
from neumeta_cli.training.outputs import close

MOST_BYTES = 1 << 30  # of moments are held at once
MOST_NUMBERS = 8192  # that a layer reads at once, or it is left out: solving takes the third power
MOST_BELOW_KERNEL = 2304  # such numbers, or the pixels below a kernel are taken for alike
IMAGES_AT_ONCE = 64
ROWS_OF_AN_IMAGE = 4  # that a norm reads are kept
REFITTED = (nn.LayerNorm, nn.RMSNorm)  # norms of all channels of an image or token


class Inputs:
    """Measures the second moments of what layers read in the checkpoint.

    Every image is looked at once for as many layers as fit in memory, at some pixels.

    Args:
        manifold: whose specs name the weights.
        tensors: W0, the checkpoint's.
        task: its training images.
        count: how many of these are looked at, at most.
        seed: draws which.
        device: where to compute.
        reporter: is told of the progress.

    """

    def __init__(
        self,
        manifold: Manifold,
        tensors: Mapping[str, Tensor],
        task: Task,
        count: int,
        seed: int,
        device: torch.device,
        reporter: Reporter,
    ) -> None:
        self.manifold, self.task, self.device, self.reporter = manifold, task, device, reporter
        self.network = manifold.frame.build({}, tensors).to(device).eval()
        self.specs = {spec.name: spec for spec in manifold.specs}
        assert task.train is not None
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randperm(len(task.train), generator=generator)[:count]

    def __call__(self, names: Sequence[str]) -> Iterator[tuple[str, Moments]]:
        """The moments for each of these weights, but of those whose layers do not just multiply."""
        some: list[str] = []
        held = 0
        for name in names:
            total = self._sum(name)
            more = 0 if total is None else total.bytes
            if some and held + more > MOST_BYTES:
                yield from self._of_each(some)
                some, held = [], 0
            some.append(name)
            held += more
        yield from self._of_each(some)

    def _of_each(self, names: Sequence[str]) -> Iterator[tuple[str, Moments]]:
        measured = self._measure(names)
        self.reporter.start("rebuild missing channels", len(measured))
        for name, moments in measured.items():
            yield name, moments
            self.reporter.advance()
        self.reporter.finish()

    def _measure(self, names: Sequence[str]) -> dict[str, Moments]:
        sums = {name: own for name in names if (own := self._sum(name)) is not None}
        self._look(sums)
        return {n: s.moments() for n, s in sums.items() if s.rows and not s.refused}

    def squares(self) -> dict[str, Tensor]:
        """E[x²] of each channel that a layer reads, (C_in,), by its weight, in float64.

        Of linear layers and convolutions that are not in groups.
        """
        sums = {
            name: _Squares()
            for name, spec in self.specs.items()
            if name == f"{spec.module}.weight"
            and reads_channels(self.network.get_submodule(spec.module))
        }
        self._look(sums)
        return {n: s.total / s.rows for n, s in sums.items() if s.rows and not s.refused}

    def norms(self) -> Iterator[tuple[str, Normed]]:
        """What norms of each image or token alone read, by their modules; they are in scope."""
        sums = {
            f"{name}.weight": _Rows()
            for name, module in self.network.named_modules()
            if isinstance(module, REFITTED) and f"{name}.weight" in self.specs
        }
        self._look(sums)
        for name, rows in sums.items():
            if rows.rows and not rows.refused:
                yield self.specs[name].module, rows.normed()

    @torch.no_grad()
    def _look(self, sums: "Mapping[str, _Sum | _Squares | _Rows]") -> None:
        """Add up what layers read of all images."""
        if not sums:  # no image need be looked at
            return
        handles = [self._watch(name, total) for name, total in sums.items()]
        index = self.images.split(self.task.rows(IMAGES_AT_ONCE))
        assert self.task.train is not None
        asked = [(part, None, slice(None)) for part in index]
        self.reporter.start("what layers read", len(self.images))
        try:
            with self.task.drawing(self.network, seed=0):
                for x, _ in self.task.batches(self.task.train, asked, self.device):
                    self.network(x.to(self.device))
                    self.reporter.advance(len(x))
        finally:
            for handle in handles:
                handle.remove()
        self.reporter.finish()

    def _watch(
        self, name: str, total: "_Sum | _Squares | _Rows"
    ) -> torch.utils.hooks.RemovableHandle:
        module = self.network.get_submodule(self.specs[name].module)

        def take(_: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            x = next(iter((*given, *named.values())))
            if not total.rows:
                total.refused = not _multiplies(module, x[:1])
            total.add(module, x)

        return module.register_forward_pre_hook(take, with_kwargs=True)

    def _sum(self, name: str) -> "_Sum | None":
        """An empty sum for a weight; None if its layer is of no kind that multiplies by it."""
        spec = self.specs[name]
        module: Any = self.network.get_submodule(spec.module)
        groups = getattr(module, "groups", 1)
        plain = isinstance(module, TRANSPOSED) and groups == 1
        if name != f"{spec.module}.weight" or not (isinstance(module, READING) or plain):
            return None
        places = torch.arange(spec.shape[1])[:, None] if groups > 1 else self._places(spec)
        taps = math.prod(spec.shape[2:]) if isinstance(module, nn.Conv2d) else 1
        if taps * len(places) > MOST_BELOW_KERNEL:
            taps = 1
        normed = self.manifold.frame.norm_of.get(spec.module) in self.manifold.norms
        return _Sum(places, groups, taps, normed) if len(places) <= MOST_NUMBERS else None

    def _places(self, spec: TensorSpec) -> Tensor:
        """The columns of a weight that read each channel: several where a map was flattened."""
        size = spec.shape[1]
        for clique in self.manifold.frame.cliques:
            flattens = min(member.repeat for member in clique.members) == 1
            for member in clique.members:
                here = (member.weight, member.dim) == (spec.name, spec.layout.into)
                if here and flattens and member.positions.size == size and not self._holds(clique):
                    return torch.from_numpy(member.positions)
        return torch.arange(size)[:, None]

    def _holds(self, clique: Clique) -> bool:
        """Whether a clique is of blocks with channels of their own, as heads are, and no map."""
        others = across(clique, self.manifold.frame.trace.cliques)
        return any(other.copies == clique.channels > 1 for other in others)


class _Squares:
    """The sum of squares of what a layer read so far: of its attributes see ``_Sum``."""

    def __init__(self) -> None:
        self.rows, self.refused = 0, False
        self.total = torch.zeros((), dtype=torch.float64)

    def add(self, module: nn.Module, x: Tensor) -> None:
        rows = spread(x, feature_dim(module)).flatten(0, -2)
        self.rows += len(rows)
        self.total = self.total + rows.double().square().sum(0).cpu()


class _Rows:
    """Some of what a norm read so far: of its attributes see ``_Sum``."""

    def __init__(self) -> None:
        self.rows, self.refused = 0, False
        self.some: list[Tensor] = []
        self.dim: int | None = None
        self.eps, self.centred = 0.0, True

    def add(self, module: Any, x: Tensor) -> None:
        if not self.rows:
            self.eps = float(torch.finfo(x.dtype).eps if module.eps is None else module.eps)
            self.centred = isinstance(module, nn.LayerNorm)
            self.dim = self._along(module, x)
        self.refused = self.dim is None
        if self.dim is None:
            return
        rows = x.movedim(self.dim, -1).flatten(0, -2)
        every = max(1, len(rows) // (ROWS_OF_AN_IMAGE * len(x)))
        self.some.append(rows[::every].float().cpu())
        self.rows += len(self.some[-1])

    def _along(self, module: Any, x: Tensor) -> int | None:
        """The dimension of the channels that it normalises; None if it does something else."""
        bias, given = getattr(module, "bias", None), module.forward(x)  # its hooks take this
        for dim in (-1, 1):
            rows = x.movedim(dim, -1)
            if rows.shape[-1:] == module.weight.shape:
                normed = Normed(rows.flatten(0, -2), self.eps, self.centred)
                own = normed.normalised(normed.rows) * module.weight + (0 if bias is None else bias)
                wanted = given.movedim(dim, -1)
                if close(own.to(x.dtype).view(rows.shape), wanted, rtol=1e-3, atol=1e-4):
                    return dim
        return None

    def normed(self) -> Normed:
        return Normed(torch.cat(self.some), self.eps, self.centred)


class _Sum:
    """The sum of x xᵀ over what a layer read so far: see ``Moments``.

    Args:
        places, taps: as there.
        groups: of the layer.
        centred: leave the means of x out, as a norm that follows takes away what they give.

    Attributes:
        bytes: that it will hold.
        rows: how many x there were.
        refused: whether the layer's outputs are not linear in its weight.

    """

    def __init__(self, places: Tensor, groups: int, taps: int, centred: bool) -> None:
        self.places, self.groups, self.taps, self.centred = places, groups, taps, centred
        self.bytes = 8 * groups * (taps * len(places)) ** 2
        self.rows, self.refused = 0, False
        self.products = self.sums = torch.zeros((), dtype=torch.float64)

    def add(self, module: Any, x: Tensor) -> None:
        """Count what the module is given."""
        rows = _patches(module, x) if self.taps > 1 else spread(x, feature_dim(module))
        rows = rows.flatten(0, -2).unflatten(1, (self.groups, -1))
        if self.places.shape[1] > 1:
            rows = rows[:, :, self.places.to(rows.device)].movedim(3, 0).flatten(0, 1)
        self.rows += len(rows)
        if self.refused:
            return
        apart = rows.transpose(0, 1)  # (groups, n, C · taps)
        self.products = (apart.transpose(1, 2) @ apart).cpu().double().add_(self.products)
        self.sums = apart.sum(1, keepdim=True, dtype=torch.float64).cpu().add_(self.sums)

    def moments(self) -> Moments:
        """Their means, in the sum's own memory."""
        means = self.sums / self.rows
        products = self.products.div_(self.rows)
        if self.centred:
            products.baddbmm_(means.transpose(1, 2), means, alpha=-1)
        return Moments(products, self.places, self.taps)


def channel_energies(inputs: Inputs, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the channels of each clique give to the layers that read them, (rows,), by its name.

    Σ E[x_i²]·‖W[:, i]‖² over these layers: the squares of their outputs, were channels independent.
    Cliques that none of them reads are left out.

    Args:
        inputs: measures what layers read.
        tensors: W0.

    """
    squares = inputs.squares()
    given = {}
    for clique in inputs.manifold.inr.frame.cliques:
        read = [m for m in clique.members if m.weight in squares]
        read = [m for m in read if inputs.specs[m.weight].layout.into == m.dim]
        if not read:
            continue
        total = torch.zeros(clique.rows, dtype=torch.float64)
        for member in read:
            columns = tensors[member.weight].detach().cpu().double().movedim(member.dim, 0)
            worth = columns.flatten(1).square().sum(1) * squares[member.weight]
            total += worth[torch.from_numpy(member.positions)].flatten(1).sum(1)
        given[clique.name] = total
    return given


def _patches(module: nn.Conv2d, x: Tensor) -> Tensor:
    """What a convolution reads at some places of each image, (b, places, C_in · kernel)."""
    reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    side = round(MOST_PIXELS**0.5)
    step = -(-x.shape[2] // side), -(-x.shape[3] // side)
    around = [n // 2 for n in reach] if isinstance(module.padding, str) else module.padding
    padded = nn.functional.pad(x, [n for own in reversed(list(around)) for n in (own, own)])
    short = [max(0, n + 1 - size) for n, size in zip(reach, padded.shape[2:], strict=True)]
    padded = nn.functional.pad(padded, [0, short[1], 0, short[0]])
    found = nn.functional.unfold(padded, module.kernel_size, module.dilation, stride=step)
    return found.transpose(1, 2)


def _multiplies(module: Any, x: Tensor) -> bool:
    """Whether a layer's outputs are linear in its weight, as they are not if it is normalised."""
    weight, outputs = module.weight.data, []
    try:
        for factor in (0, 1, 2):
            module.weight.data = factor * weight
            outputs.append(module.forward(x))
    finally:
        module.weight.data = weight
    return close(outputs[0] + outputs[2], 2 * outputs[1], rtol=1e-3, atol=1e-5)
