"""Fitting the INR: the task, the reconstruction of the checkpoint, a penalty."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from neumeta_cli.distill.features import open_source
from neumeta_cli.distill.hints import Hints
from neumeta_cli.distill.journal import STATE_FILE, Journal, StopSignals
from neumeta_cli.distill.precision import choose_precision, settled_precision
from neumeta_cli.distill.processes import Processes
from neumeta_cli.distill.settings import FitRecipe
from neumeta_cli.distill.step import Step
from neumeta_cli.distill.watch import Watch
from neumeta_cli.errors import NeumetaError, StoppedRunError
from neumeta_cli.manifold import Manifold
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.tasks import Task

BAD_STEPS = 5  # steps in a row whose loss or gradient is not finite, before going back
GOING_BACK = 3  # times, each at half the rate, before giving up


@dataclass(frozen=True)
class FitResult:
    """What a fit took.

    Attributes:
        seconds: in the steps.
        preparation_seconds: in frozen features.
        epochs, steps: of the whole fit, before and after it was resumed.
        skipped: steps left out since something in them was not finite.
        times_back: how often it went back to an earlier state at half the rate.
        precision: of matrix products and convolutions.

    """

    seconds: float
    preparation_seconds: float
    epochs: int
    steps: int
    skipped: int = 0
    times_back: int = 0
    precision: str = "float32"


class Fitter:
    """A fit under way. ``run`` goes through all steps; it can be stopped between any two of them.

    The state is saved every ``fit.save_steps`` steps, at the end of each epoch and when a signal
    stops it. A step whose loss or gradient is not finite changes nothing but is counted; after a
    few in a row the fit goes back to the last regular save and on at half the rate.

    Args:
        manifold: with an INR to fit; it is changed in place.
        tensors: the permuted and folded weights of the checkpoint, W0.
        task: data and loss.
        recipe: the sections noise, loss and fit.
        device: where to compute.
        folder: where the state and the metrics go; nowhere if None.
        reporter: is told of the progress.

    """

    def __init__(
        self,
        manifold: Manifold,
        tensors: Mapping[str, Tensor],
        task: Task,
        recipe: FitRecipe,
        device: torch.device | str = "cpu",
        folder: Path | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        if task.train is None or len(task.train) == 0:
            raise NeumetaError("there are no training images")
        self.processes = Processes()
        self.device = self.processes.open(torch.device(device))
        self.manifold = manifold.to(self.device)
        self.task, self.recipe = task, recipe
        self.journal = Journal(folder, self.processes.main)
        self.watch = Watch(task, recipe.eval)
        self.watched = ""
        self.reporter = reporter or Silent()
        start = time.perf_counter()
        hints = Hints(manifold) if recipe.loss.hint else None
        source = open_source(
            manifold,
            tensors,
            task,
            recipe.fit.views,
            recipe.loss.distill > 0,
            hints,
            recipe.seed,
            self.device,
            self.reporter,
        )
        self._keep_calibration_images()
        self.preparation_seconds = time.perf_counter() - start
        self.stepper = Step(manifold, tensors, task, source, recipe, self.processes, hints)
        average = get_ema_multi_avg_fn(recipe.fit.ema)
        self.average = AveragedModel(manifold.field, multi_avg_fn=average)
        self.good: Mapping[str, Any] = {}  # the last regular save, to go back to
        self.step = self.skipped = self.skipped_in_row = self.times_back = 0
        self.seconds = 0.0
        self.resumed = False
        self.order_state = self.stepper.choices.get_state()  # as the epoch's order was drawn
        self.sums: dict[str, float] = {}

    def _keep_calibration_images(self) -> None:
        assert self.task.train is not None
        if self.manifold.norms:
            generator = torch.Generator().manual_seed(self.recipe.seed)
            index = torch.randperm(len(self.task.train), generator=generator)
            chosen = index[: self.recipe.norm.images]
            images = self.task.inputs(self.task.train, chosen, None)
            self.manifold.calibration.keep(images, self.recipe.norm.quality)
            self.manifold.calibration.to(self.device)

    @property
    def steps_per_epoch(self) -> int:
        assert self.task.train is not None
        return max(1, len(self.task.train) // self.recipe.fit.batch_size)

    @property
    def total_steps(self) -> int:
        return self.recipe.fit.epochs * self.steps_per_epoch

    def run(self) -> FitResult:
        """Fit until the last step; the manifold then holds the averaged INR.

        Raises:
            StoppedRunError: by Ctrl-C or a signal to end; the state is saved.
            NeumetaError: the loss stays not finite, or the state cannot be written.

        """
        with self.journal.running():
            return self._run()

    def settle_precision(self) -> str:
        """The precision that the steps are to have: the recipe's, or the quicker one here."""
        fit, processes = self.recipe.fit, self.processes
        assert self.task.train is not None
        images = min(fit.batch_size, len(self.task.train))
        least = max(4, processes.count)
        precision = settled_precision(
            fit.precision,
            lambda: choose_precision(
                self.stepper.rehearse,
                images,
                self.total_steps,
                self.device,
                lambda flag: processes.any(flag and processes.main, self.device),
                least,
            ),
            self.journal.folder,
            self.resumed,
            processes.main,
            self.reporter,
        )
        self.stepper.lowered = precision == "bfloat16"
        return precision

    def _run(self) -> FitResult:
        precision = self.settle_precision()
        self.reporter.start("fit", self.total_steps - self.step)
        self.good = copy.deepcopy(self.state_dict()) if self.step == 0 else self.good
        batches: tuple[Tensor, ...] = ()
        step = torch.tensor(self.step)
        begun = (step, *self.manifold.state_dict().values(), *self.stepper.original.values())
        self.processes.check_same(begun, self.device)
        with StopSignals(patient=self.processes.count > 1) as stop:
            while self.step < self.total_steps:
                start = time.perf_counter()
                place = self.step % self.steps_per_epoch
                if place == 0 or not batches:
                    batches = self._order(place)
                back = self._add(self.train_step(batches[place]))
                self.seconds += time.perf_counter() - start
                if back:
                    batches = ()
                elif self.step % self.steps_per_epoch == 0:
                    self._end_epoch()
                elif self.step % self.recipe.fit.save_steps == 0:
                    self._save()
                stopping = self.processes.any(stop.requested, self.device)
                if stopping and self.journal.folder is None:
                    raise KeyboardInterrupt
                if stopping:
                    try:
                        self.journal.save(self.state_dict() | {"good": self.good})
                    finally:  # a launcher ends all processes when the first one leaves
                        self.processes.any(False, self.device)
                    self.reporter.finish()
                    raise StoppedRunError(f"stopped at step {self.step} of {self.total_steps}")
        self.reporter.finish()
        self.manifold.field.load_state_dict(self.average.module.state_dict())
        self.manifold.round_as_stored()
        self.manifold.requires_grad_(False).eval()
        epochs = self.step // self.steps_per_epoch
        return FitResult(
            self.seconds,
            self.preparation_seconds,
            epochs,
            self.step,
            self.skipped,
            self.times_back,
            precision,
        )

    def _order(self, place: int) -> tuple[Tensor, ...]:
        """The epoch's batches; within an epoch they are drawn again as they were."""
        assert self.task.train is not None
        now = self.stepper.choices.get_state()
        if place == 0:
            self.order_state = now
            self.sums = {}
        self.stepper.choices.set_state(self.order_state)
        order = torch.randperm(len(self.task.train), generator=self.stepper.choices)
        if place:
            self.stepper.choices.set_state(now)
        return order.split(self.recipe.fit.batch_size)

    def _add(self, parts: dict[str, float] | None) -> bool:
        """Count a step, or one that was skipped; tells whether the fit has gone back."""
        self.step += 1
        if parts is not None:
            self.skipped_in_row = 0
            for name, value in (parts | {"steps": 1.0}).items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.reporter.advance(1, self._telling())
            return False
        self.skipped += 1
        self.skipped_in_row += 1
        self.reporter.advance(1, f"{self.skipped} steps skipped: not finite")
        if self.skipped_in_row < BAD_STEPS:
            return False
        if self.times_back == GOING_BACK:
            raise NeumetaError(
                f"the loss is not finite at step {self.step}, also after {GOING_BACK} returns to "
                f"an earlier state at half the rate; lower fit.learning_rate (now "
                f"{self.recipe.fit.learning_rate:g}) or set fit.clip"
            )
        skipped, times = self.skipped, self.times_back + 1
        self.restore(self.good)
        self.skipped, self.times_back = skipped, times
        self.journal.forget_after(self.step)
        return True

    def _telling(self) -> str:
        steps = self.sums["steps"]
        parts = [f"{n} {v / steps:.3f}" for n, v in self.sums.items() if n != "steps" and v]
        epoch = (self.step - 1) // self.steps_per_epoch + 1
        return f"epoch {epoch}/{self.recipe.fit.epochs}: {', '.join(parts)}{self.watched}"

    def _end_epoch(self) -> None:
        record: dict[str, float] = {"epoch": self.step // self.steps_per_epoch, "step": self.step}
        record |= {"seconds": round(self.seconds, 2), "skipped": self.skipped}
        steps = self.sums.get("steps", 0.0)
        record |= {n: v / steps for n, v in self.sums.items() if n != "steps" and steps}
        main = self.processes.main
        seen = self.watch.look(self.manifold, self.average.module) if main else {}
        self.watched = self.watch.tell(seen)
        self.journal.record(record | seen)
        self._save()

    def _save(self) -> None:
        """Save, unless the last step was skipped: then the state is not known to be good."""
        if self.skipped_in_row == 0:
            state = self.state_dict()
            self.good = copy.deepcopy(state)
            self.journal.save(state)

    def train_step(self, index: Tensor) -> dict[str, float] | None:
        """One step on the training images ``index``.

        Returns:
            The parts of its loss, or None if it was skipped: the loss or its gradient is not
            finite, and nothing has changed.

        """
        self.stepper.set_rate(self.step, self.total_steps, 0.5**self.times_back)
        parts = self.stepper.take(index, self.step < self.recipe.fit.warmup_steps)
        if parts is not None:
            self.average.update_parameters(self.manifold.field)
        return parts

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the fit depends on."""
        return {
            "field": self.manifold.field.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.stepper.optimizer.state_dict(),
            "choices": self.stepper.choices.get_state(),
            "noise": self.stepper.noise.generator.get_state(),
            "order": self.order_state,
            "sums": dict(self.sums),
            "step": self.step,
            "skipped": self.skipped,
            "skipped_in_row": self.skipped_in_row,
            "times_back": self.times_back,
            "seconds": self.seconds,
            "checkpoint": self.manifold.provenance.sha256,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back, or on, to where ``state_dict`` was taken."""
        self.manifold.field.load_state_dict(state["field"])
        self.average.load_state_dict(state["average"])
        self.stepper.optimizer.load_state_dict(
            copy.deepcopy(state["optimizer"])
        )  # it keeps the tensors
        self.stepper.choices.set_state(state["choices"].cpu())
        self.stepper.noise.generator.set_state(state["noise"].cpu())
        self.order_state = state["order"].cpu()
        self.sums = dict(state["sums"])
        self.step, self.skipped = state["step"], state["skipped"]
        self.skipped_in_row, self.times_back = state["skipped_in_row"], state["times_back"]
        self.seconds = state["seconds"]

    def resume(self) -> None:
        """Go on where the state in the folder was saved, if there is one.

        Raises:
            NeumetaError: the file is damaged or belongs to another recipe or checkpoint.

        """
        self.resumed = True
        self.journal.tell_of_death(self.reporter)
        state = self.journal.load(self.device)
        if state is None:
            return
        try:
            if state["checkpoint"] != self.manifold.provenance.sha256:
                raise ValueError("another checkpoint")
            self.restore(state)
            self.good = state.get("good", state)
        except Exception as error:  # torch raises many kinds on states of other networks
            raise NeumetaError(
                f"cannot resume from {STATE_FILE}: it is of another recipe or checkpoint; leave "
                "out --resume"
            ) from error
        self.journal.forget_after(self.step)


def fit_manifold(
    manifold: Manifold,
    tensors: Mapping[str, Tensor],
    task: Task,
    recipe: FitRecipe,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> FitResult:
    """Fit a manifold's INR in place: a ``Fitter`` with these arguments, run to its end.

    With ``resume`` it goes on from the state in ``folder``, if there is one.
    """
    fitter = Fitter(manifold, tensors, task, recipe, device, folder, reporter)
    if resume:
        fitter.resume()
    return fitter.run()
