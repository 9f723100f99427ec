"""Ordinary training: how a checkpoint is made, and the yardstick for what a fit costs."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neumeta_cli.errors import NeumetaError
from neumeta_cli.kernels import SafeConvolutions
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.seeding import seeded_on
from neumeta_cli.tasks import Classification, Task
from neumeta_cli.training.footprint import Held
from neumeta_cli.training.journal import Journal
from neumeta_cli.training.kept import KeptMemory
from neumeta_cli.training.learner import START, Place
from neumeta_cli.training.loop import Loop
from neumeta_cli.training.outputs import as_float
from neumeta_cli.training.processes import Processes
from neumeta_cli.training.settings import TrainSection
from neumeta_cli.training.synced import SyncedNorms

TIMED_STEPS = 5
MOST_SEED = 1 << 31
Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class PlainStep:
    """Takes the steps of ordinary training of all weights of a network, in place.

    Args:
        model: on its device.
        task: data and loss.
        optimizer: of the model's parameters.
        learning_rate: at the first step; it decays to 0 along a cosine.
        seed: of order, augmentation and what the network draws.
        device: where to compute.
        processes: that share each batch.
        mixed: mixes the images and labels of a batch, drawing from torch's own generator.
        mix_share: of the steps, the first ones, that mix.

    Attributes:
        choices: draws order and augmentation; the same in every process.
        chance: draws a seed a step for what the network draws itself, which adds its rank to it.
        lowered: whether the network computes in bfloat16.

    """

    pieces = None  # a batch is not split

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        optimizer: torch.optim.Optimizer,
        learning_rate: float,
        seed: int,
        device: torch.device,
        processes: Processes,
        mixed: Mix | None = None,
        mix_share: float = 1.0,
    ) -> None:
        self.mixed, self.mix_share = mixed, mix_share
        self.model = model.requires_grad_(True).train()
        self.task, self.optimizer, self.learning_rate = task, optimizer, learning_rate
        self.seed, self.device, self.processes = seed, device, processes
        self.choices = torch.Generator().manual_seed(seed)
        self.kept = KeptMemory()
        self.chance = torch.Generator().manual_seed(seed)
        self.lowered = False
        norms = processes.count > 1
        self.batch_norms: AbstractContextManager[Any] = SyncedNorms() if norms else nullcontext()

    def expect(self, batches: Sequence[Tensor], step: int) -> None:
        """Read ahead what these steps take, where images lie in files."""
        images, part = self.task.train, self.processes.part
        assert images is not None
        asked = [(b, self._draws(s), part(len(b))) for s, b in enumerate(batches, step)]
        images.expect(asked, self.task.data, self.device)

    def take(self, index: Tensor, place: Place = START) -> dict[str, float] | None:
        """One step on the training images ``index``, (b,), of all processes together.

        Returns:
            Its loss, or None if it was skipped: the loss or its gradient is not finite, and nothing
            has changed but generators.

        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * place.decay * place.factor
        buffers = self._buffers()
        mixes = place.step < self.mix_share * place.total
        parts = self._compute_gradients(index, place.step, self.mixed if mixes else None)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm + parts["loss"]):
            self._put_back(buffers)
            return None
        self.optimizer.step()
        return parts

    def rehearse(self, precision: str, number: int, images: int) -> None:
        """What a step computes up to its gradients, leaving everything as it was.

        Args:
            precision: to compute it in.
            number: seed of the augmentation.
            images: how many training images, the first ones.

        """
        with self._unchanged(precision):
            self.choices.manual_seed(number)
            self._compute_gradients(torch.arange(images), number, self.mixed)

    def footprint(self, precision: str, images: int) -> int:
        """Bytes that the tensors of a step on the first images take at their most."""
        held = Held()
        with self._unchanged(precision), held:
            self._compute_gradients(torch.arange(images), 0, self.mixed)
        return held.most

    @contextmanager
    def _unchanged(self, precision: str) -> Iterator[None]:
        """Compute in a precision, and leave everything as it was."""
        generators = (self.choices, self.chance)
        before, buffers = [g.get_state() for g in generators], self._buffers()
        lowered, self.lowered = self.lowered, precision == "bfloat16"
        try:
            yield
        finally:
            self.optimizer.zero_grad()
            self._put_back(buffers)
            self.lowered = lowered
            for generator, state in zip(generators, before, strict=True):
                generator.set_state(state)

    def _draws(self, step: int) -> torch.Generator:
        """What augments a step's images."""
        assert self.task.train is not None
        return self.task.train.generator(self.choices, self.seed, step)

    def _compute_gradients(self, index: Tensor, step: int, mixed: Mix | None) -> dict[str, float]:
        """The loss, and its gradients, of the whole batch."""
        task, part = self.task, self.processes.part(len(index))
        assert task.train is not None
        drawn = int(torch.randint(MOST_SEED, (), generator=self.chance))
        self.optimizer.zero_grad()
        with (
            seeded_on(self.device, drawn + self.processes.rank),
            SafeConvolutions(),
            self.batch_norms,
        ):
            x, targets = task.batch(task.train, index, self._draws(step), part)
            x, targets = x.to(self.device), targets.to(self.device)
            if mixed is not None:
                x, targets = mixed(x, targets)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.lowered):
                outputs = self.model(x)
            loss = task.loss(as_float(outputs), targets)
            loss = loss * self.processes.share(len(index))
            loss.backward()  # here too: what is checkpointed runs forward again
        parts = {"loss": float(loss.detach())}
        self.processes.average_gradients(self.model.parameters(), parts)
        return parts

    def _buffers(self) -> list[Tensor]:
        """Copies of running statistics and the like, which a forward pass changes."""
        return [b.clone() for b in self.model.buffers()]

    def _put_back(self, buffers: list[Tensor]) -> None:
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)

    def look(self) -> tuple[dict[str, float], str]:
        """Nothing: a network is measured when it is trained."""
        return {}, ""

    def shared(self) -> Iterable[Tensor]:
        """The weights."""
        return self.model.state_dict().values()

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "chance": self.chance.get_state(),
            "seed": self.seed,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Be again as ``state_dict`` found it."""
        if state["seed"] != self.seed:
            raise ValueError("another seed")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # it keeps the tensors
        self.chance.set_state(state["chance"].cpu())


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
    """Train all weights of a network in place, by AdamW with a cosine decay.

    Args:
        model: with its first weights.
        task: data and loss.
        train: the recipe's section.
        seed: of order, augmentation and what the network draws.
        device: where to compute.
        folder: where the state and the metrics go; nowhere if None.
        resume: go on from the state in the folder, if there is one.
        reporter: is told of the progress.

    Returns:
        The same module, in evaluation mode, on the CPU.

    Raises:
        StoppedRunError: by Ctrl-C or a signal to end; the state is saved.
        NeumetaError: the loss stays not finite, the state cannot be read or written, or images
            shall be mixed whose targets are no classes.

    """
    if task.train is None or len(task.train) == 0:
        raise NeumetaError("there are no training images")
    processes = Processes()
    place = processes.open(torch.device(device))
    optimizer = torch.optim.AdamW(
        model.to(place).parameters(), lr=train.learning_rate, weight_decay=train.weight_decay
    )
    mix = (_mix(train.mix, task), train.mix_share)
    step = PlainStep(model, task, optimizer, train.learning_rate, seed, place, processes, *mix)
    journal = Journal(folder, processes.main)
    images = len(task.train)
    loop = Loop(step, "train", train, images, journal, processes, reporter or Silent())
    if resume:
        loop.resume()
    loop.run()
    return model.cpu().requires_grad_(False).eval()


def _mix(name: str, task: Task) -> Mix | None:
    """What mixes the batches of a task, None for ``none``.

    MixUp (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019) as torchvision has them.

    Raises:
        NeumetaError: the task's targets are no classes of images.

    """
    if name == "none":
        return None
    images = task.train
    assert images is not None
    if not isinstance(task, Classification) or images.labels is None or not images.classes:
        raise NeumetaError(f"train.mix={name} mixes labels of classes; this task has none")
    from torchvision.transforms import v2

    made: Mix = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[name](num_classes=len(images.classes))
    return made


def measure_plain_epoch(
    model: nn.Module, task: Task, batch_size: int, device: torch.device | str = "cpu"
) -> float:
    """Seconds that one epoch of ordinary float32 training of ``model`` takes here.

    Times a few steps on a copy, in this process alone, and multiplies.
    """
    assert task.train is not None
    place, times = torch.device(device), []
    timed = copy.deepcopy(model).to(place).requires_grad_(True)
    optimizer = torch.optim.SGD(timed.parameters(), lr=0.0)
    step = PlainStep(timed, task, optimizer, 0.0, 0, place, Processes((1, 0)))
    index = torch.arange(min(batch_size, len(task.train)))
    step.expect([index] * (TIMED_STEPS + 1), 0)
    for number in range(TIMED_STEPS + 1):
        start = time.perf_counter()
        step.take(index, Place(number))
        times.append(time.perf_counter() - start)
    median = sorted(times[1:])[TIMED_STEPS // 2]
    return median * max(1, len(task.train) // batch_size)
