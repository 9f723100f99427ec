"""The training loop: epochs, skipped steps, going back, saving, stopping and resuming."""

import copy
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from neumeta_cli.errors import NeumetaError, StoppedRunError
from neumeta_cli.hardware import give_back_memory
from neumeta_cli.reporting import Reporter, counted
from neumeta_cli.training.footprint import (
    Outlook,
    check_fits,
    free_bytes,
    held_bytes,
    step_bytes,
)
from neumeta_cli.training.journal import STATE_FILE, Journal, StopSignals
from neumeta_cli.training.learner import Learner, LoopSettings, Place
from neumeta_cli.training.precision import Choice, choose_precision, settled_precision
from neumeta_cli.training.processes import Processes

BAD_STEPS = 5  # steps in a row whose loss or gradient is not finite, before going back
TIMED, REHEARSED = 50, 4  # steps to come, from which on a few are tried to tell the time
GOING_BACK = 3  # times, each at half the rate, before giving up


class Loop:
    """Takes all steps of a training; stopped between any two, it goes on to the same bits.

    The state is saved every ``save_steps`` steps, at the end of each epoch and when a signal stops
    it. A step whose loss or gradient is not finite changes nothing but is counted; after a few in a
    row the loop goes back to the last regular save and on at half the rate.

    Args:
        learner: what is trained.
        section: of the recipe, by name, which ``settings`` are.
        settings: of the loop.
        images: in the training data.
        journal: where the state and the metrics go.
        processes: that share each batch.
        reporter: is told of the progress.
        advice: what helps against a loss that stays not finite, beside a lower rate.

    Attributes:
        step, skipped, times_back: of the whole training, before and after it was resumed.
        seconds: in the steps.
        precision: of the steps, once they have begun.

    """

    def __init__(
        self,
        learner: Learner,
        section: str,
        settings: LoopSettings,
        images: int,
        journal: Journal,
        processes: Processes,
        reporter: Reporter,
        advice: str = "",
    ) -> None:
        self.learner, self.section, self.settings = learner, section, settings
        self.images, self.advice = images, advice
        self.journal, self.processes, self.reporter = journal, processes, reporter
        self.good: Mapping[str, Any] = {}  # the last regular save, to go back to
        self.step = self.skipped = self.skipped_in_row = self.times_back = 0
        self.seconds, self.precision, self.resumed = 0.0, settings.precision, False
        self.batches: tuple[Tensor, ...] = ()  # of this epoch, drawn when they are needed
        self.order_state = learner.choices.get_state()  # as the epoch's order was drawn
        self.sums: dict[str, float] = {}  # of the parts of this epoch's losses
        self.seen = ""  # what the learner measured last
        self.kept = learner.kept

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.images // self.settings.batch_size)

    @property
    def batch_size(self) -> int:
        """Images in a step: as many as settings say, or all."""
        return min(self.settings.batch_size, self.images)

    @property
    def total_steps(self) -> int:
        return self.settings.epochs * self.steps_per_epoch

    @property
    def place(self) -> Place:
        """Of the next step."""
        return Place(self.step, self.total_steps, 0.5**self.times_back)

    def run(self) -> None:
        """Train to the last step.

        Raises:
            StoppedRunError: by Ctrl-C or a signal to end; the state is saved.
            NeumetaError: the loss stays not finite, or the state cannot be written.

        """
        with self.journal.running():
            self.prepare()
            self.reporter.start(self.section, self.total_steps - self.step)
            if self.step == 0:
                self.good = copy.deepcopy(self.state_dict())
            begun = (torch.tensor(self.step), *self.learner.shared())
            self.processes.check_same(begun, self.learner.device)
            with StopSignals(patient=self.processes.count > 1) as stop:
                while self.step < self.total_steps:
                    self.advance()
                    if self._any(stop.requested):
                        self._stop()
            self.reporter.finish()
            self.kept.before(step=False)

    def prepare(self) -> Outlook:
        """Settle how the steps are taken, and tell what they will take.

        Raises:
            NeumetaError: memory does not hold one; says what it would.

        """
        batch = self.batch_size
        asked = "bfloat16" if self.settings.precision == "bfloat16" else "float32"
        needed = step_bytes(self.learner.footprint, asked, batch, self.processes.count)
        pieces = self.learner.pieces
        at_once = -(-batch // (pieces or 1))
        give_back_memory()
        free = free_bytes(self.learner.device)
        check_fits(needed, at_once, batch, free, self.section, pieces is not None)
        outlook = Outlook(
            self.settle_precision(),
            left := self.total_steps - self.step,
            self.seconds_of_step() if left >= TIMED else None,
            needed.at(at_once),
            held_bytes(self.learner.device),
            free,
        )
        if self.processes.main:
            self.reporter.tell(outlook.told())
        return outlook

    def settle_precision(self) -> str:
        """The precision that the steps are to have: the recipe's, or the quicker one here."""
        self.precision = settled_precision(
            self.settings.precision,
            self.try_precisions,
            self.section,
            self.journal.folder,
            self.resumed,
            self.processes.main,
            self.reporter,
        )
        self.learner.lowered = self.precision == "bfloat16"
        return self.precision

    def try_precisions(self) -> Choice:
        """Rehearse a few steps in each precision; what is trained stays as it is."""
        main = self.processes.main
        return choose_precision(
            self.learner.rehearse,
            self.batch_size,
            self.total_steps,
            self.learner.device,
            lambda flag: self._any(flag and main),
            max(4, self.processes.count),
        )

    def seconds_of_step(self) -> float:
        """Of a whole batch in the precision that is settled, up to its gradients."""
        taken = []
        for number in range(REHEARSED):
            start = time.perf_counter()
            self.learner.rehearse(self.precision, number, self.batch_size)
            if self.learner.device.type == "cuda":
                torch.cuda.synchronize(self.learner.device)
            taken.append(time.perf_counter() - start)
        return sum(taken[1:]) / (REHEARSED - 1)  # the first one makes what the others find

    def _any(self, flag: bool) -> bool:
        return self.processes.any(flag, self.learner.device)

    def advance(self) -> None:
        """Take a step, and do what is due after it."""
        start = time.perf_counter()
        self.kept.before()
        parts = self.learner.take(self._batch(), self.place)
        self.kept.after()
        self.step += 1
        if parts is not None:
            self._count(parts)
        went_back = parts is None and self._skip()
        self.seconds += time.perf_counter() - start
        if went_back:
            return
        if self.step % self.steps_per_epoch == 0:
            self._end_epoch()
        elif self.step % self.settings.save_steps == 0:
            self._save()

    def _batch(self) -> Tensor:
        """The images of this step; within an epoch their order is drawn again as it was."""
        place, choices = self.step % self.steps_per_epoch, self.learner.choices
        if place == 0:
            self.order_state, self.sums = choices.get_state(), {}
        if place == 0 or not self.batches:
            now = choices.get_state()
            choices.set_state(self.order_state)
            order = torch.randperm(self.images, generator=choices)
            self.batches = order.split(self.settings.batch_size)[: self.steps_per_epoch]
            self.learner.expect(self.batches[place:], self.step)
            if place:
                choices.set_state(now)
        return self.batches[place]

    def _count(self, parts: Mapping[str, float]) -> None:
        self.skipped_in_row = 0
        for name, value in {**parts, "steps": 1.0}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        epoch = (self.step - 1) // self.steps_per_epoch + 1
        told = ", ".join(f"{name} {mean:.3f}" for name, mean in self._means().items() if mean)
        self.reporter.advance(1, f"epoch {epoch:,}/{self.settings.epochs:,}: {told}{self.seen}")

    def _means(self) -> dict[str, float]:
        """Of the parts of the loss, over the steps of this epoch that were not skipped."""
        return {n: v / self.sums["steps"] for n, v in self.sums.items() if n != "steps"}

    def _skip(self) -> bool:
        """Count a step that was skipped; tells whether that made the loop go back."""
        self.skipped += 1
        self.skipped_in_row += 1
        self.reporter.advance(1, f"{counted(self.skipped, 'step')} skipped: not finite")
        if self.skipped_in_row < BAD_STEPS:
            return False
        if self.times_back == GOING_BACK:
            raise NeumetaError(
                f"the loss is not finite at step {self.step:,}, also after {GOING_BACK} returns to "
                f"an earlier state at half the rate; lower {self.section}.learning_rate (now "
                f"{self.settings.learning_rate:g}){self.advice}"
            )
        skipped, times = self.skipped, self.times_back + 1
        self.restore(self.good)
        self.skipped, self.times_back = skipped, times
        self.batches = ()
        self.journal.forget_after(self.step)
        return True

    def _end_epoch(self) -> None:
        counts = {"epoch": self.step // self.steps_per_epoch, "step": self.step}
        times = {"seconds": round(self.seconds, 2), "skipped": self.skipped}
        seen = self.look() if self.processes.main else {}
        self.journal.record({**counts, **times, **self._means(), **seen})
        self._save()

    def look(self) -> dict[str, float]:
        """What the learner measures at an epoch's end."""
        self.kept.before(step=False)
        seen, self.seen = self.learner.look()
        self.kept.after(step=False)
        return seen

    def _save(self) -> None:
        """Save, unless the last step was skipped: then the state is not known to be good."""
        if self.skipped_in_row == 0:
            state = self.state_dict()
            self.good = copy.deepcopy(state)
            self.journal.save(state)

    def _stop(self) -> None:
        if self.journal.folder is None:
            raise KeyboardInterrupt
        try:
            self.journal.save(self.state_dict() | {"good": self.good})
        finally:  # a launcher ends all processes when the first one leaves
            self._any(False)
        self.reporter.finish()
        raise StoppedRunError(f"stopped at step {self.step:,} of {self.total_steps:,}")

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on."""
        return {
            **self.learner.state_dict(),
            "choices": self.learner.choices.get_state(),
            "order": self.order_state,
            "sums": dict(self.sums),
            "step": self.step,
            "skipped": self.skipped,
            "skipped_in_row": self.skipped_in_row,
            "times_back": self.times_back,
            "seconds": self.seconds,
            "images": self.images,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back, or on, to where ``state_dict`` was taken."""
        if state.get("images", self.images) != self.images:
            raise ValueError("other data")
        self.learner.restore(state)
        self.learner.choices.set_state(state["choices"].cpu())
        self.order_state = state["order"].cpu()
        self.sums = dict(state["sums"])
        self.step, self.skipped = state["step"], state["skipped"]
        self.skipped_in_row, self.times_back = state["skipped_in_row"], state["times_back"]
        self.seconds = state["seconds"]

    def resume(self) -> None:
        """Go on where the state in the folder was saved, if there is one.

        Raises:
            NeumetaError: the file is damaged or of another training.

        """
        self.resumed = True
        self.journal.tell_of_death(self.reporter)
        state = self.journal.load(self.learner.device)
        if state is None:
            return
        try:
            self.restore(state)
            self.good = state.get("good", state)
        except Exception as error:  # torch raises many kinds on states of other networks
            raise NeumetaError(
                f"cannot resume from {STATE_FILE}: it is of another recipe or checkpoint, of other "
                "data or of an earlier neumeta; leave out --resume"
            ) from error
        self.journal.forget_after(self.step)
