"""One step of a fit: which widths, which images, the losses, the update."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from neumeta_cli.cache import Cache
from neumeta_cli.distill.depths import DepthPool
from neumeta_cli.distill.draws import Drawn, WidthPool
from neumeta_cli.distill.fast.norms import QuickNorms
from neumeta_cli.distill.fast.padding import Padding
from neumeta_cli.distill.features import Batch, FeatureSource, ImageSource
from neumeta_cli.distill.hints import Features, Hints
from neumeta_cli.distill.settings import FitRecipe
from neumeta_cli.distill.watch import Watch
from neumeta_cli.kernels import SafeConvolutions
from neumeta_cli.manifold import Manifold, Noise, RepeatedDraws
from neumeta_cli.tasks import Task
from neumeta_cli.training import START, KeptMemory, Place, Processes
from neumeta_cli.training.footprint import Held
from neumeta_cli.training.outputs import as_float
from neumeta_cli.training.synced import SyncedNorms

LEAST_PARTS = 10  # of a fit, one of which the rate may rise in
FUSED = ("cpu", "cuda")  # devices where torch has Adam in one kernel

Term = tuple[str, Tensor, float]  # part of the loss that it belongs to, value, share


class Step:
    """Takes the steps of a fit; each changes the manifold's INR once, or not at all.

    Args:
        manifold: on its device.
        tensors: W0, the weights that it is to learn.
        task: the loss.
        source: of images.
        recipe: the sections noise, loss, fit and eval.
        processes: that share each batch.
        hints: the features that are compared, none if None.

    Attributes:
        average: of the INR over the steps.
        choices: draws order, widths, tensors and augmentation; the same in every process.
        noise: of the coordinates; the same in every process.
        lowered: whether networks and the INR compute in bfloat16.
        pieces: of a process's share of the batch, computed one after another.

    """

    def __init__(
        self,
        manifold: Manifold,
        tensors: Mapping[str, Tensor],
        task: Task,
        source: ImageSource | FeatureSource,
        recipe: FitRecipe,
        processes: Processes,
        hints: Hints | None = None,
    ) -> None:
        inr = manifold.inr.requires_grad_(True).train()
        self.device = next(inr.parameters()).device
        self.manifold, self.task, self.source, self.recipe = manifold, task, source, recipe
        self.processes = processes
        self.original = {s.name: tensors[s.name].to(self.device) for s in manifold.specs}
        self.norms = {name: w.square().sum() for name, w in self.original.items()}
        self.widths = WidthPool(manifold, recipe.fit, recipe.seed)
        self.depths = DepthPool(manifold, self.widths, recipe.fit, recipe.seed)
        self.padding = Padding(manifold, self.original, self._few_images())
        self.draws = RepeatedDraws(manifold)
        self._other_depths: Cache[RepeatedDraws] = Cache(most_bytes=None)
        rated = inr.rated()
        self.factors = [factor for _, factor in rated]
        groups = [{"params": parameters} for parameters, _ in rated]
        fused = self.device.type in FUSED
        self.optimizer = torch.optim.Adam(groups, lr=recipe.fit.learning_rate, fused=fused)
        average = get_ema_multi_avg_fn(recipe.fit.ema)
        self.average = AveragedModel(inr, multi_avg_fn=average)
        self.watch = Watch(task, recipe.eval)
        self.choices = torch.Generator().manual_seed(recipe.seed)
        noise = torch.Generator(self.device).manual_seed(recipe.seed)
        self.noise = Noise(recipe.noise.channels, recipe.noise.sizes, noise)
        self.hints = hints
        self.batch_norms = QuickNorms() if processes.count == 1 else SyncedNorms()
        self.convolutions = SafeConvolutions()
        self.lowered = recipe.fit.precision == "bfloat16"
        self.place = START  # of the step under way
        self.pieces = recipe.fit.accumulate
        self.kept = KeptMemory()
        self.chance = 0  # seed of what networks draw in this step

    def expect(self, batches: Sequence[Tensor], step: int) -> None:
        """Read ahead what these steps take, where images lie in files."""
        first, part = max(step, self.recipe.fit.warmup_steps), self.processes.part
        later = enumerate(batches[first - step :], first)  # those before look at no image
        self.source.expect([(b, self._draws(s), part(len(b))) for s, b in later])

    def take(self, index: Tensor, place: Place = START) -> dict[str, float] | None:
        """One step on the training images ``index``; the first ones on the reconstruction alone.

        Args:
            index: (b,), of all processes together.
            place: of the step in the fit.

        Returns:
            The parts of its loss, or None if it was skipped: the loss or its gradient is not
            finite, and nothing has changed.

        """
        self._set_rate(place)
        warm = place.step < self.recipe.fit.warmup_steps
        terms: list[Term] = []
        parameters = list(self.manifold.inr.parameters())
        self.optimizer.zero_grad()
        for loss in self._losses(index, warm, terms):
            loss.backward()
            self.kept.after()
        parts = _summed(terms)
        self.processes.average_gradients(parameters, parts)
        most = math.inf if self.recipe.fit.clip is None else self.recipe.fit.clip
        deep = self.manifold.inr.changes_by_depth()
        apart = {id(parameter) for parameter in deep}
        rest = [parameter for parameter in parameters if id(parameter) not in apart]
        norm = torch.nn.utils.clip_grad_norm_(rest, most)
        if deep:
            norm = norm + torch.nn.utils.clip_grad_norm_(deep, most)
        total = sum(parts.values())
        if not math.isfinite(float(norm) + total):
            return None
        self.optimizer.step()
        self.average.update_parameters(self.manifold.inr)
        return {"loss": total} | parts

    def _set_rate(self, place: Place) -> None:
        """A rise, then half a cosine."""
        rising = min(self.recipe.fit.rising_steps, place.total // LEAST_PARTS)
        rise = min(1.0, (place.step + 1) / max(1, rising))
        self.place = place
        for group, own in zip(self.optimizer.param_groups, self.factors, strict=True):
            # Not the group's own rate, which a saved state brings back from an earlier recipe.
            group["lr"] = self.recipe.fit.learning_rate * rise * place.decay * place.factor * own

    def rehearse(self, precision: str, number: int, images: int) -> None:
        """What a step computes up to its gradients, leaving everything as it was.

        Args:
            precision: to compute it in.
            number: each draws other widths, the same in every precision.
            images: how many training images, the first ones.

        """
        place = self.place
        with self._unchanged(precision):
            self.choices.manual_seed(number)
            self.place = replace(place, step=number)
            for loss in self._losses(torch.arange(images), False, []):
                loss.backward()
        self.place = place

    def footprint(self, precision: str, images: int) -> int:
        """Bytes that the tensors of a step's largest network take at their most."""
        pool = [Drawn(self.widths.largest, 1.0), *self.depths.largest]
        pieces, held = self.pieces, Held()
        self.pieces = 1
        try:
            with self._unchanged(precision), held:
                for loss in self._losses(torch.arange(images), False, [], pool):
                    loss.backward()
        finally:
            self.pieces = pieces
        return held.most

    @contextmanager
    def _unchanged(self, precision: str) -> Iterator[None]:
        """Compute in a precision, and leave everything as it was."""
        generators = (self.choices, self.noise.generator)
        before = [g.get_state() for g in generators]
        lowered, self.lowered = self.lowered, precision == "bfloat16"
        try:
            yield
        finally:
            self.optimizer.zero_grad()
            self.lowered = lowered
            for generator, state in zip(generators, before, strict=True):
                generator.set_state(state)

    def look(self) -> tuple[dict[str, float], str]:
        """How accurate the averaged INR is at a few widths, also for a line of progress."""
        seen = self.watch.look(self.manifold, self.average.module)
        return seen, self.watch.tell(seen)

    def shared(self) -> Iterable[Tensor]:
        """The manifold, and the weights that it is to learn."""
        return [*self.manifold.state_dict().values(), *self.original.values()]

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {
            "field": self.manifold.inr.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "noise": self.noise.generator.get_state(),
            "checkpoint": self.manifold.provenance.sha256,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Be again as ``state_dict`` found it."""
        if state["checkpoint"] != self.manifold.provenance.sha256:
            raise ValueError("another checkpoint")
        self.manifold.inr.load_state_dict(state["field"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # it keeps the tensors
        self.noise.generator.set_state(state["noise"].cpu())

    def _losses(
        self,
        index: Tensor,
        warm: bool,
        terms: list[Term],
        pool: Sequence[Drawn] = (),
    ) -> Iterator[Tensor]:
        """The loss of each network of a step times its share of the weights; notes its terms.

        One after another, so that one network at a time is held. Where the batch is split, every
        part of it meets the same widths, noise and augmentation as the whole would.
        """
        if not pool:
            pool = [Drawn(self.widths.full, 1.0)] if warm else self.widths.draw(self.choices)
            weights = sum(drawn.weight for drawn in pool) or 1.0
            pool = pool if warm else [*pool, *self.depths.draw(self.place.step)]
        else:
            weights = sum(drawn.weight for drawn in pool)
        # The largest first: memory that it leaves holds the others.
        pool = sorted(pool, key=lambda drawn: sum(drawn.sizes.values()), reverse=True)
        trained = self._draw_trained(warm)
        generators = (self.choices, self.noise.generator)
        begun = [g.get_state() for g in generators]
        for number, part in enumerate([slice(None)] if warm else self._parts(len(index))):
            for generator, state in zip(generators, begun, strict=True) if number else ():
                generator.set_state(state)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.lowered):
                batch = None if warm else self._batch(index, part)
            counts = self._share(part, len(index))
            for drawn in pool:
                share = drawn.weight / (1.0 if drawn.has_depth else weights)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.lowered):
                    generated = self._generate(drawn, trained)
                    if not any(w.requires_grad for w in generated.values()):
                        continue  # the full width of an INR that keeps the checkpoint there
                    own = {} if batch is None else self._task_loss(drawn, generated, batch)
                own = {n: value * counts for n, value in own.items()}
                if number == 0:
                    own |= self._weight_loss(drawn, generated)
                terms += [(name, value.detach(), share) for name, value in own.items()]
                yield torch.stack(list(own.values())).sum() * share

    def _parts(self, count: int) -> list[slice]:
        """Which of ``count`` images of a batch this process takes at once, one after another."""
        first, _, step = self.processes.part(count).indices(count)
        pieces = min(self.pieces, count // step)
        return [slice(first + step * piece, None, step * pieces) for piece in range(pieces)]

    def _share(self, part: slice, count: int) -> float:
        """What a mean over a part counts in the mean over processes of their sums over parts."""
        return len(range(*part.indices(count))) * self.processes.count / count

    def _batch(self, index: Tensor, part: slice) -> Batch:
        """The step's images; teacher and networks draw the same random numbers, if any."""
        if self.task.samples:
            self.chance = int(torch.randint(1 << 31, (), generator=self.choices))
        with self.task.drawing(self.manifold.frame.model, self.chance):
            return self.source.batch(index, self._draws(self.place.step), part)

    def _draws(self, step: int) -> torch.Generator:
        """What augments a step's images."""
        assert self.task.train is not None
        return self.task.train.generator(self.choices, self.recipe.seed, step)

    def _draws_for(self, drawn: Drawn) -> RepeatedDraws:
        """What evaluates the INR for networks with these blocks."""
        if not drawn.has_depth:
            return self.draws

        def other() -> RepeatedDraws:
            manifold = self.manifold.without(drawn.dropped)
            return RepeatedDraws(manifold.longer(dict(drawn.added), tried=True))

        return self._other_depths.get((drawn.dropped, drawn.added), other)

    def _generate(self, drawn: Drawn, trained: set[str] | None) -> dict[str, Tensor]:
        draws, noise = self._draws_for(drawn), self.noise
        if drawn.has_depth:  # noise of its own: that of the others is as it would be without it
            seed = self.recipe.seed + self.place.step
            generator = torch.Generator(self.device).manual_seed(seed)
            noise = Noise(noise.channels, noise.sizes, generator)
            if drawn.added or drawn.sizes != self.widths.full:  # these seldom come again
                return draws.manifold.generate(drawn.sizes, noise, trained)
        return draws.generate(drawn.sizes, noise, trained)

    def _task_loss(
        self, drawn: Drawn, generated: dict[str, Tensor], batch: Batch
    ) -> dict[str, Tensor]:
        weights, task, sizes = self.recipe.loss, self.task, drawn.sizes
        manifold, wider = self._draws_for(drawn).manifold, self.padding.sizes(sizes)
        fixed = manifold.fixed_at(wider, statistics=False)
        tensors = fixed | self.padding.pad(generated, sizes)
        network = manifold.skeleton(wider)
        watching: AbstractContextManager[Features] = nullcontext({})
        if self.hints:
            watching = self.hints.watching(network)
        with (
            task.drawing(network, self.chance),
            self.convolutions,
            self.batch_norms,
            watching as features,
        ):
            outputs = self.source.run(network, tensors, batch)
        outputs = as_float(outputs)
        parts = {}
        if task.knows(task.train):
            parts["task"] = weights.task * task.loss(outputs, batch.targets)
        if weights.distill and batch.teacher is not None:
            divergence = task.divergence(outputs, as_float(batch.teacher), weights.temperature)
            parts["distill"] = weights.distill * divergence
        if self.hints and (drawn.has_depth or sizes != self.widths.full):
            apart = self.hints.loss(features, batch.hints, sizes, self.padding)
            parts["hint"] = weights.hint * self.place.decay * apart
        return parts

    def _weight_loss(self, drawn: Drawn, generated: dict[str, Tensor]) -> dict[str, Tensor]:
        """λ1 ‖W0‖²·‖W − W0‖² at full width, and λ2 ‖W‖², over the tensors that this step trains."""
        loss = self.recipe.loss
        trained = {name: w for name, w in generated.items() if w.requires_grad}
        parts = {}
        if drawn.sizes == self.widths.full and not drawn.has_depth:
            apart = [
                self.norms[n] * (w - self.original[n]).square().sum() for n, w in trained.items()
            ]
            parts["recon"] = loss.recon * torch.stack(apart).sum()
        parts["reg"] = loss.reg * torch.stack([w.square().sum() for w in trained.values()]).sum()
        return parts

    def _few_images(self) -> Tensor:
        assert self.task.train is not None
        few = torch.arange(min(2, len(self.task.train)))
        return self.task.inputs(self.task.train, few, None).to(self.device)

    def _draw_trained(self, warm: bool) -> set[str] | None:
        names = [spec.name for spec in self.manifold.specs]
        count = max(1, round(self.recipe.fit.update * len(names)))
        if warm or count == len(names):
            return None
        chosen = torch.randperm(len(names), generator=self.choices)[:count]
        return {names[i] for i in chosen.tolist()}


def _summed(terms: Sequence[Term]) -> dict[str, float]:
    """The parts of a loss, read at once: each reading waits for all that a GPU has to do."""
    parts: dict[str, float] = {}
    values = torch.stack([value.float() for _, value, _ in terms]).tolist() if terms else []
    for (name, _, share), value in zip(terms, values, strict=True):
        parts[name] = parts.get(name, 0.0) + value * share
    return parts
