"""Ordinary training: how a checkpoint is made, and the yardstick for what a fit costs."""

import math
import time

import torch
from torch import nn

from neumeta_cli.distill.outputs import as_float
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.sections import TrainSection
from neumeta_cli.tasks import Task

TIMED_STEPS = 5


def train_network(
    model: nn.Module,
    task: Task,
    train: TrainSection,
    seed: int = 0,
    device: torch.device | str = "cpu",
    reporter: Reporter | None = None,
) -> nn.Module:
    """Train all weights of ``model`` in place, with Adam and a cosine decay.

    Returns:
        The same module, in evaluation mode, on the CPU.

    """
    if task.train is None:
        raise NeumetaError("there are no training images")
    reporter = reporter or Silent()
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # of what the network itself draws: dropout, codes
    model = model.to(device).requires_grad_(True).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=train.learning_rate)
    per_epoch = max(1, len(task.train) // train.batch_size)
    total = train.epochs * per_epoch
    reporter.start("train", total)
    for step in range(total):
        if step % per_epoch == 0:
            order = torch.randperm(len(task.train), generator=generator)
        index = order.split(train.batch_size)[step % per_epoch]
        for group in optimizer.param_groups:
            group["lr"] = train.learning_rate * 0.5 * (1 + math.cos(math.pi * step / total))
        loss = _plain_step(
            model, task, optimizer, index, generator, torch.device(device), train.precision
        )
        reporter.advance(1, f"loss {loss:.3f}")
    reporter.finish()
    return model.cpu().requires_grad_(False).eval()


def measure_plain_epoch(
    model: nn.Module, task: Task, batch_size: int, device: torch.device | str = "cpu"
) -> float:
    """Seconds that one epoch of ordinary float32 training of ``model`` takes here.

    Times a few steps on a copy and multiplies.
    """
    import copy

    assert task.train is not None
    copied = copy.deepcopy(model).to(device).requires_grad_(True).train()
    optimizer = torch.optim.SGD(copied.parameters(), lr=0.0)
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(min(batch_size, len(task.train)))
    times = []
    for _ in range(TIMED_STEPS + 1):
        start = time.perf_counter()
        _plain_step(copied, task, optimizer, index, generator, torch.device(device))
        times.append(time.perf_counter() - start)
    median = sorted(times[1:])[TIMED_STEPS // 2]
    return median * max(1, len(task.train) // batch_size)


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
    with torch.autocast(device.type, torch.bfloat16, enabled=lowered):
        outputs = model(x.to(device))
    loss = task.loss(as_float(outputs), targets.to(device))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())
