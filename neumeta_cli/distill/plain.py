"""Ordinary training: how a checkpoint is made, and the yardstick for what a fit costs."""

import copy
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neumeta_cli.distill.journal import Journal, StopSignals
from neumeta_cli.distill.outputs import as_float
from neumeta_cli.distill.precision import Choice, choose_precision, settled_precision
from neumeta_cli.distill.settings import TrainSection
from neumeta_cli.errors import NeumetaError, StoppedRunError
from neumeta_cli.kernels import SafeConvolutions
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.seeding import seeded
from neumeta_cli.tasks import Task

TIMED_STEPS = 5
BAD_STEPS = 5  # in a row whose loss is not finite, before training ends


class Trainer:
    """Ordinary training of all weights of a network in place: the fit's loop without the INR.

    Adam with a cosine decay. The state is saved every ``train.save_steps`` steps, at the end of
    each epoch and when a signal stops it. A step whose loss is not finite is left out; several in a
    row end the training.

    Args:
        model: with its first weights.
        task: data and loss.
        train: the recipe's section.
        seed: of order, augmentation and what the network draws.
        device: where to compute.
        folder: where the state and the metrics go; nowhere if None.
        reporter: is told of the progress.

    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        train: TrainSection,
        seed: int = 0,
        device: torch.device | str = "cpu",
        folder: Path | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        if task.train is None or len(task.train) == 0:
            raise NeumetaError("there are no training images")
        self.device = torch.device(device)
        self.model = model.to(self.device).requires_grad_(True).train()
        self.task, self.images, self.train = task, task.train, train
        self.journal, self.reporter = Journal(folder), reporter or Silent()
        self.seed, self.generator = seed, torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=train.learning_rate)
        self.order = torch.empty(0, dtype=torch.int64)
        self.step = self.skipped = self.skipped_in_row = 0
        self.total_loss = 0.0
        self.precision: str = train.precision
        self.resumed = False
        with seeded(seed):
            self.chance = torch.get_rng_state()  # of what the network draws

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.images) // self.train.batch_size)

    @property
    def total_steps(self) -> int:
        return self.train.epochs * self.steps_per_epoch

    def run(self) -> nn.Module:
        """Train to the last step.

        Returns:
            The same module, in evaluation mode, on the CPU.

        Raises:
            StoppedRunError: by Ctrl-C or a signal to end; the state is saved.
            NeumetaError: the loss stays not finite, or the state cannot be written.

        """
        with self.journal.running():
            self.precision = settled_precision(
                self.train.precision,
                self._choose_precision,
                self.journal.folder,
                self.resumed,
                True,
                self.reporter,
            )
            self._run()
        return self.model.cpu().requires_grad_(False).eval()

    def _choose_precision(self) -> Choice:
        images = min(self.train.batch_size, len(self.images))
        timed = TimedSteps(self.model, self.task, self.device)
        return choose_precision(timed.step, images, self.total_steps, self.device)

    def _run(self) -> None:
        self.reporter.start("train", self.total_steps - self.step)
        with StopSignals() as stop:
            while self.step < self.total_steps:
                self._take()
                ended = self.step % self.steps_per_epoch == 0
                if ended:
                    self._end_epoch()
                if ended or stop.requested or self.step % self.train.save_steps == 0:
                    self.journal.save(self.state_dict())
                if stop.requested:
                    self.reporter.finish()
                    raise StoppedRunError(f"stopped at step {self.step} of {self.total_steps}")
        self.reporter.finish()

    def _take(self) -> None:
        place = self.step % self.steps_per_epoch
        if place == 0:
            self.order = torch.randperm(len(self.images), generator=self.generator)
        index = self.order.split(self.train.batch_size)[place]
        decay = 0.5 * (1 + math.cos(math.pi * self.step / self.total_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = self.train.learning_rate * decay
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.chance)
            loss = _plain_step(
                self.model,
                self.task,
                self.optimizer,
                index,
                self.generator,
                self.device,
                self.precision,
            )
            self.chance = torch.get_rng_state()
        self.step += 1
        finite = math.isfinite(loss)
        self.skipped += not finite
        self.skipped_in_row = 0 if finite else self.skipped_in_row + 1
        if self.skipped_in_row == BAD_STEPS:
            raise NeumetaError(
                f"the loss is not finite at step {self.step}; lower train.learning_rate (now "
                f"{self.train.learning_rate:g})"
            )
        self.total_loss += loss if finite else 0.0
        epoch = (self.step - 1) // self.steps_per_epoch + 1
        self.reporter.advance(1, f"epoch {epoch}/{self.train.epochs}: loss {loss:.3f}")

    def _end_epoch(self) -> None:
        mean = self.total_loss / self.steps_per_epoch
        epoch, self.total_loss = self.step // self.steps_per_epoch, 0.0
        counts = {"epoch": epoch, "step": self.step, "skipped": self.skipped}
        self.journal.record({**counts, "loss": mean})

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "chance": self.chance,
            "order": self.order,
            "counts": [self.step, self.skipped, self.skipped_in_row],
            "seed": self.seed,
            "total_loss": self.total_loss,
        }

    def resume(self) -> None:
        """Go on where the state in the folder was saved, if there is one.

        Raises:
            NeumetaError: the file is damaged or belongs to another network or other data.

        """
        self.resumed = True
        self.journal.tell_of_death(self.reporter)
        state = self.journal.load(self.device)
        if state is None:
            return
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.generator.set_state(state["generator"].cpu())
            self.chance = state["chance"].cpu()
            self.order, self.total_loss = state["order"].cpu(), state["total_loss"]
            self.step, self.skipped, self.skipped_in_row = state["counts"]
            if state["seed"] != self.seed:
                raise ValueError("another seed")
            if self.step % self.steps_per_epoch and len(self.order) != len(self.images):
                raise ValueError("other data")
        except Exception as error:  # torch raises many kinds on states of other networks
            raise NeumetaError(
                f"cannot resume from {self.journal.folder}: it is of another recipe, seed or data; "
                "leave out --resume"
            ) from error
        self.journal.forget_after(self.step)


def train_network(
    model: nn.Module,
    task: Task,
    train: TrainSection,
    seed: int = 0,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> nn.Module:
    """Train a network in place: a ``Trainer`` with these arguments, run to its end.

    With ``resume`` it goes on from the state in ``folder``, if there is one.
    """
    trainer = Trainer(model, task, train, seed, device, folder, reporter)
    if resume:
        trainer.resume()
    return trainer.run()


def measure_plain_epoch(
    model: nn.Module, task: Task, batch_size: int, device: torch.device | str = "cpu"
) -> float:
    """Seconds that one epoch of ordinary float32 training of ``model`` takes here.

    Times a few steps on a copy and multiplies.
    """
    assert task.train is not None
    timed, times = TimedSteps(model, task, torch.device(device)), []
    for _ in range(TIMED_STEPS + 1):
        start = time.perf_counter()
        timed.step("float32", 0, min(batch_size, len(task.train)))
        times.append(time.perf_counter() - start)
    median = sorted(times[1:])[TIMED_STEPS // 2]
    return median * max(1, len(task.train) // batch_size)


class TimedSteps:
    """Training steps on a copy of a network, which change nothing that lasts."""

    def __init__(self, model: nn.Module, task: Task, device: torch.device) -> None:
        self.task, self.device = task, device
        self.model = copy.deepcopy(model).to(device).requires_grad_(True).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)

    def step(self, precision: str, number: int, images: int) -> None:
        """One on the first images, augmented by the seed ``number``."""
        generator = torch.Generator().manual_seed(number)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            index = torch.arange(images)
            parts = (self.model, self.task, self.optimizer, index, generator, self.device)
            _plain_step(*parts, precision)


def _plain_step(
    model: nn.Module,
    task: Task,
    optimizer: torch.optim.Optimizer,
    index: torch.Tensor,
    generator: torch.Generator,
    device: torch.device,
    precision: str = "float32",
) -> float:
    assert task.train is not None
    x, targets = task.batch(task.train, index, generator)
    lowered = precision == "bfloat16"
    with torch.autocast(device.type, torch.bfloat16, enabled=lowered), SafeConvolutions():
        outputs = model(x.to(device))
    loss = task.loss(as_float(outputs), targets.to(device))
    optimizer.zero_grad()
    value = float(loss.detach())
    if not math.isfinite(value):
        return value
    with SafeConvolutions():  # what is checkpointed runs forward here again
        loss.backward()
    norm = float(
        torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    )
    if math.isfinite(norm):
        optimizer.step()
    return value if math.isfinite(norm) else norm
