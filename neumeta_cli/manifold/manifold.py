"""The weight manifold: one object that gives a network of any width."""

import copy
import functools
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from neumeta_cli.cache import Cache
from neumeta_cli.checkpoint import Arch, InputSize, other_names
from neumeta_cli.errors import NeumetaError
from neumeta_cli.hardware import computes_bfloat16
from neumeta_cli.manifold.blueprint import Blueprint, Provenance
from neumeta_cli.manifold.calibration import CalibrationSet
from neumeta_cli.manifold.generated import additions, own_memory, resampled, turned_back
from neumeta_cli.manifold.inr import KINDS, InrSettings, Noise, Store, Target, tensor_specs
from neumeta_cli.manifold.live import CACHED, LiveNetwork
from neumeta_cli.manifold.settings import NoiseSection
from neumeta_cli.manifold.storage import EXACT, LEVELS, pack, plain_name, under, unpack
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.resize import (
    Frame,
    Sizes,
    added_names,
    calibrate,
    drop_statistics,
    has_statistics,
    move_constants,
    open_frame,
)

SAMPLING_SEED = 0  # of the K perturbed draws of each tensor: exports of one machine are the same


class Manifold(nn.Module):
    """An INR of the tensors in scope, and the tensors out of scope as they are.

    The LeNet for digits has 64 units in its first linear layer; at half of the width it has 32, and
    reads 16 instead of 32 maps of 2×2::

        >>> lenet = resolve("lenet_digits")
        >>> made = lenet.build("cpu"), lenet, (1, 8, 8), "all", False
        >>> manifold, _ = build_manifold(*made, inr_settings(), NoiseSection())
        >>> manifold.sample(0.5).fc1
        Linear(in_features=64, out_features=32, bias=True)

    Args:
        arch: how to build the network.
        frame: that network with a scope, folded if ``fold`` is set.
        fold: whether batch norms were folded into the layers before them.
        tensors: the (permuted, folded) weights.
        inr: kind and size of the INR.
        noise: perturbation in the fit, and K.

    """

    def __init__(
        self,
        arch: Arch,
        frame: Frame,
        fold: bool,
        tensors: Mapping[str, Tensor],
        inr: InrSettings,
        noise: NoiseSection,
    ) -> None:
        super().__init__()
        self.arch, self.frame, self.fold = arch, frame, fold
        self.noise = noise
        self.provenance = Provenance()
        self.specs = tensor_specs(frame, tensors)
        modules = dict.fromkeys(spec.module for spec in self.specs)
        self.norms = tuple(m for m in modules if has_statistics(frame.model.get_submodule(m)))
        self.calibration = CalibrationSet()
        self.inr = KINDS[inr.kind](inr, frame, self.specs, tensors)
        known = {spec.name for spec in self.specs} | set(other_names(frame.model))
        self.fixed_names = [name for name in tensors if name not in known]
        for number, name in enumerate(self.fixed_names):
            self.register_buffer(f"fixed_{number}", tensors[name].detach().clone())
        self._skeletons: Cache[nn.Module] = Cache()

    def without(self, blocks: Sequence[str]) -> "Manifold":
        """The same manifold, whose networks lack some blocks: see ``neumeta_cli.resize.find_runs``.

        It shares everything with this one. Norms behind a block that is gone see other features, so
        their statistics are calibrated anew where it has images for that.
        """
        return self._with(self.frame.without(blocks))

    def longer(self, added: Mapping[str, int], tried: bool = False) -> "Manifold":
        """The same manifold, whose networks have more blocks: what a fit made of them, or copies.

        Args:
            added: how many blocks follow a block, by its name.
            tried: it is known that copies change nothing before they are trained.

        Raises:
            NeumetaError: it cannot be seen how a copy would change nothing.

        """
        made = self._with(self.frame.longer(added))
        copies = {name: count for name, count in added.items() if name not in self.inr.learnt}
        if tried or not copies:
            return made
        trial = self._with(self.frame.longer(copies))
        noise = torch.Generator().manual_seed(SAMPLING_SEED)
        x = torch.randn(2, *self.input_size, generator=noise).to(self.inr.device)
        try:
            outputs = [m.sample(1.0, samples=0)(x) for m in (self, trial)]
        except ValueError as error:
            raise NeumetaError(f"no block can be added: {error}") from error
        pairs = zip(tree_leaves(outputs[0]), tree_leaves(outputs[1]), strict=True)
        if not all(torch.equal(one, other) for one, other in pairs if isinstance(one, Tensor)):
            blocks = ", ".join(copies)
            raise NeumetaError(f"no block can be added after {blocks}: it would change outputs")
        return made

    def _with(self, frame: Frame) -> "Manifold":
        made = copy.copy(self)
        made.frame = frame
        copies = {n for name in self.norms for n in added_names(name, self.frame.added)}
        left = [name for name in self.norms if name not in copies and frame.has(name)]
        made.norms = tuple(n for name in left for n in (name, *added_names(name, frame.added)))
        made._skeletons = Cache()
        return made

    @property
    def blueprint(self) -> Blueprint:
        """What a file says of the network."""
        frame = self.frame
        return Blueprint(self.arch, self.input_size, self.fold, frame.scope, frame.heads)

    @property
    def input_size(self) -> InputSize:
        """(C, H, W)."""
        channels, height, width = self.frame.inputs
        return int(channels), int(height), int(width)

    @property
    def fixed(self) -> dict[str, Tensor]:
        """The tensors out of scope."""
        return {n: self.get_buffer(f"fixed_{i}") for i, n in enumerate(self.fixed_names)}

    def put_fixed(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over those of the tensors that are out of scope."""
        for number, name in enumerate(self.fixed_names):
            if name in tensors:
                self.register_buffer(f"fixed_{number}", tensors[name].detach())

    def targets(self, sizes: Sizes) -> Sequence[Target]:
        """What is to be generated at these sizes."""
        return self.inr.targets(sizes, self.frame.dropped)

    def generate(
        self, sizes: Sizes, noise: Noise | None = None, trained: Iterable[str] | None = None
    ) -> dict[str, Tensor]:
        """Evaluate the INR once.

        Args:
            sizes: channels of each clique in scope.
            noise: perturbation of the coordinates, none if None.
            trained: names of the tensors that gradients are to reach; all if None.

        Returns:
            The generated tensors by name.

        """
        if self.frame.added:  # of such networks only what is added, or missing, is learnt
            with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self.frame.dropped)):
                made = self._generate(sizes, noise, trained)
            return made | additions(self.inr, self.frame, self.targets(sizes), made, trained)
        return self._generate(sizes, noise, trained)

    def _generate(
        self, sizes: Sizes, noise: Noise | None, trained: Iterable[str] | None
    ) -> dict[str, Tensor]:
        targets = self.targets(sizes)
        if trained is None:
            return turned_back(targets, self.inr(targets, noise))
        chosen = set(trained)
        made: dict[str, Tensor] = {}
        for group, gradients in ((True, torch.is_grad_enabled()), (False, False)):
            some = [t for t in targets if (t.spec.name in chosen) == group]
            if some:
                with torch.set_grad_enabled(gradients):
                    weights = self.inr(some, noise)
                made |= turned_back(some, weights)
        return made

    @torch.no_grad()
    def draw(
        self, sizes: Sizes, samples: int | None = None, reporter: Reporter | None = None
    ) -> dict[str, Tensor]:
        """The mean of K perturbed evaluations of the INR, for every tensor in scope.

        Args:
            sizes: channels of each clique in scope.
            samples: K, the recipe's if None; 0 evaluates once without perturbation.
            reporter: is told of the progress.

        """
        count = self.noise.samples if samples is None else samples
        device = next(self.inr.parameters()).device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._draws_lowered(count, device)):
            return self._draw(sizes, count, reporter or Silent())

    def _draws_lowered(self, count: int, device: str) -> bool:
        """Whether draws are in bfloat16."""
        if self.noise.precision != "auto":
            return self.noise.precision == "bfloat16"
        perturbed = count > 1 and self.noise.channels > 0
        return perturbed and self.inr.rounds_below_noise and computes_bfloat16(device)

    def _draw(self, sizes: Sizes, count: int, reporter: Reporter) -> dict[str, Tensor]:
        if count == 0:
            return self.generate(sizes)
        targets = self.targets(sizes)
        reporter.start("sample weights", count * sum(math.prod(t.shape) for t in targets))
        made: dict[str, Tensor] = {}
        for target in targets:
            generator = torch.Generator().manual_seed(SAMPLING_SEED + target.spec.layer)
            noise = Noise(self.noise.channels, self.noise.sizes, generator)
            mean = self.inr.mean(target, noise, count, reporter)
            made |= turned_back([target], [mean])
        reporter.finish()
        return made | additions(self.inr, self.frame, targets, made)

    @torch.no_grad()
    def round_as_stored(self) -> None:
        """Give the INR's parameters the precision of the file, so that loading changes nothing."""
        inr, fixed = self.unpacked(self.packed())
        self.inr.load_state_dict(inr)
        self.put_fixed(fixed)

    def store_as(self, store: Store) -> "Manifold":
        """Let its file have another number format, and its tensors that precision.

        With ``compact`` the tensors out of scope are rounded too; the network at full width is then
        the checkpoint up to rounding.
        """
        self.inr.settings = self.inr.settings.model_copy(update={"store": store})
        self.round_as_stored()
        return self

    def packed(self) -> dict[str, Tensor]:
        """Its tensors as the file holds them, with ``inr.`` or ``fixed.`` before their names."""
        store, state, fixed = self.inr.settings.store, self.inr.state_dict(), self.fixed
        if store == "compact":
            if self.inr.device.type != "meta":
                state = self.inr.carry(state, self._rounded)
            parameters = dict(self.frame.model.named_parameters())
            fixed = pack(fixed, store, lambda name, _: LEVELS if name in parameters else EXACT)
        inr = pack(state, store, self.inr.levels)
        return {f"inr.{n}": t for n, t in inr.items()} | {f"fixed.{n}": t for n, t in fixed.items()}

    def _rounded(self, name: str, tensor: Tensor) -> Tensor:
        return unpack(pack({name: tensor}, self.inr.settings.store, self.inr.levels))[name]

    def unpacked(self, packed: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The reverse: the INR's state, and the tensors out of scope."""
        inr, fixed = under("inr.", packed), under("fixed.", packed)
        if self.inr.settings.store == "compact":
            own = self.fixed
            fixed = {n: t.to(own[n].dtype) for n, t in unpack(fixed).items()}
        return unpack(inr), fixed

    def part(self, name: str) -> str:
        """What a tensor of ``packed`` is part of."""
        kind, _, inner = name.partition(".")
        return (
            f"INR: {self.inr.part(plain_name(inner))}" if kind == "inr" else "tensors out of scope"
        )

    def skeleton(self, sizes: Sizes) -> nn.Module:
        """The network at these sizes on the meta device, to be called with generated tensors.

        Norms in scope have no statistics of their own and use those of the batch.
        """

        def make() -> nn.Module:
            self.frame.check_wider(sizes)
            made = self.frame.skeleton(sizes)
            for name in self.norms:
                drop_statistics(made.get_submodule(name))
            return move_constants(made, self.inr.device)

        return self._skeletons.get((self.inr.device, *sizes.items()), make)

    def fixed_at(self, sizes: Sizes, statistics: bool = True) -> dict[str, Tensor]:
        """The tensors out of scope; statistics of norms along morphing channels are resampled.

        Without ``statistics`` those of norms in scope are left out, as ``skeleton`` has none.
        """
        shapes = self.frame.shapes(sizes)
        places = self.inr.chosen(sizes) if self.inr.settings.chooses else {}
        fixed = {
            name: resampled(name, tensor, shapes[name], places) if name in shapes else tensor
            for name, tensor in self.fixed.items()
            if self.frame.has(name) and (statistics or name.rpartition(".")[0] not in self.norms)
        }
        return fixed | self.frame.copied(fixed)

    @torch.no_grad()
    def sample(
        self,
        width: float | None = None,
        sizes: Sizes | None = None,
        samples: int | None = None,
        reporter: Reporter | None = None,
    ) -> nn.Module:
        """A network with weights of its own, on this manifold's device.

        Args:
            width: kept over full channels, of every clique in scope.
            sizes: channels by clique instead; cliques left out keep theirs.
            samples: K, the recipe's if None.
            reporter: is told of the progress.

        Raises:
            NeumetaError: neither or both of width and sizes, a width that is not positive, or one
                above 1 with which the network does not run.

        """
        if (width is None) == (sizes is None):
            raise NeumetaError("give either a width or the sizes of cliques")
        chosen = self.frame.full | dict(sizes or {}) if width is None else self.frame.sizes(width)
        self.frame.check_wider(chosen)
        tensors = self.fixed_at(chosen) | self.draw(chosen, samples, reporter)
        own = {name: own_memory(tensor) for name, tensor in tensors.items()}
        network = self.frame.build(chosen, own)
        full = all(chosen[name] >= count for name, count in self.frame.full.items())
        changed = self.frame.dropped or any(name in self.inr.learnt for name in self.frame.added)
        same = self.inr.keeps_checkpoint and full and not changed
        exact = same and (samples == 0 or not (self.noise.channels or self.noise.sizes))
        if self.norms and len(self.calibration) and not exact:
            calibrate(network, self.norms, self.calibration.batches())
        return network

    def live(
        self, width: float = 1.0, samples: int | None = None, cached: int = CACHED
    ) -> LiveNetwork:
        """A network that changes its width in place.

        Args:
            width: to begin with.
            samples: K, the recipe's if None.
            cached: how many networks it keeps, of the widths last used.

        """
        frame: Frame = self.frame
        sample = functools.partial(self.sample, samples=samples)
        network = LiveNetwork(sample, frame.sizes, cached)
        return network.morph(width)


def build_manifold(
    model: nn.Module,
    arch: Arch,
    input_size: InputSize,
    scope: str | Sequence[str],
    fold: bool,
    inr: InrSettings,
    noise: NoiseSection,
    heads: str = "width",
    frame: Frame | None = None,
) -> tuple[Manifold, dict[str, Tensor]]:
    """A manifold with an INR that nobody has fitted yet.

    Args:
        model: the permuted network; it is left as it is.
        arch: how to build it.
        input_size: (C, H, W).
        scope: see ``resolve_scope``.
        fold: fold batch norm into the layers before it.
        inr: the INR.
        noise: its perturbation.
        heads: see ``resizable``.
        frame: of ``model``, where it is known already.

    Returns:
        The manifold, and the tensors that it is to learn (folded, permuted), all of them.

    """
    frame = open_frame(model, input_size, heads) if frame is None else frame
    structure = copy.deepcopy(model).eval()
    if fold and frame.norm_of:
        frame = open_frame(frame.fold(structure), input_size, frame.heads)
    tensors = dict(structure.state_dict())
    return Manifold(arch, frame.with_scope(scope), fold, tensors, inr, noise), tensors
