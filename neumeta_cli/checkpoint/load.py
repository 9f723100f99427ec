"""From a weights file to a network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neumeta_cli.checkpoint.arch import (
    Arch,
    fit_arch,
    recorded_arch,
    resolve,
)
from neumeta_cli.checkpoint.assign import put_tensors
from neumeta_cli.checkpoint.detect import detect_arch
from neumeta_cli.checkpoint.integrity import (
    refusing,
)
from neumeta_cli.checkpoint.weights import (
    Weights,
    read_weights,
)
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Reporter, Silent

InputSize = tuple[int, int, int]
MOST_PIXELS = 1 << 14  # of a side of an input


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights, and what is known of where it came from.

    Attributes:
        model: in evaluation mode, on the CPU, its floating-point weights as float32.
        arch: how to build it again.
        input_size: (C, H, W) of one input.
        weights: the file as read: its own dtypes, wrappers and other entries.
        path: the file.
        others: architectures of the same name in other libraries that fit as well.

    """

    model: nn.Module
    arch: Arch
    input_size: InputSize
    weights: Weights
    path: Path
    others: tuple[Arch, ...] = ()


def load_checkpoint(
    path: Path,
    arch: str | Arch | None = None,
    input_size: InputSize | None = None,
    reporter: Reporter | None = None,
) -> Checkpoint:
    """Read a checkpoint and build its network.

    Args:
        path: weights file; pickled code in it is never run.
        arch: architecture or its name; found from the file's metadata, name and tensors if None.
        input_size: (C, H, W); the architecture's own if None.
        reporter: is told of the progress where the architecture has to be searched for.

    Raises:
        NeumetaError: the file cannot be read, or it does not fit the architecture.

    """
    path = Path(path)
    weights = read_weights(path)
    kind = weights.metadata.get("kind", "checkpoint")
    if kind != "checkpoint":
        raise NeumetaError(
            f"{path} is a neumeta {kind}, not a checkpoint; see: neumeta info {path}"
        )
    others: list[Arch] = []
    recorded = weights.metadata.get("arch")
    if arch is not None:
        found = resolve(arch) if isinstance(arch, str) else arch
    elif recorded:
        with refusing(path, "checkpoint"):
            name, kwargs = str(recorded["name"]), dict(recorded["kwargs"])
            if ":" in name:
                raise NeumetaError(
                    f"{path} names code of its own, {name}, which is not imported without "
                    "permission; "
                    f"if you trust it, say --arch {name}"
                )
            found = recorded_arch(name, kwargs, trusted=False)
    else:
        found, others = detect_arch(path, weights.tensors, reporter or Silent())
    found, mismatch = fit_arch(found, weights.tensors)
    if mismatch:
        raise NeumetaError(f"{path} does not fit {found.name}: {mismatch}")
    model = materialise(found.build, weights.tensors)
    if input_size is None:
        with refusing(path, "checkpoint"):
            size = weights.metadata.get("input_size")
            input_size = found.default_input_size() if size is None else parse_size(size)
    return Checkpoint(model, found, input_size, weights, path, tuple(others))


def parse_size(numbers: Any) -> InputSize:
    """The (C, H, W) of one input as a file has it.

    Raises:
        ValueError: it is no such thing.

    """
    if not isinstance(numbers, list) or len(numbers) != 3:
        raise ValueError(f"its input size is no (C, H, W): {numbers!r:.60}")
    if not all(type(n) is int and 1 <= n <= MOST_PIXELS for n in numbers):
        raise ValueError(f"its input size is no (C, H, W): {numbers!r:.60}")
    channels, height, width = numbers
    return channels, height, width


def materialise(build: Callable[[str], nn.Module], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Build a network around ``tensors``, which it shares where they are already float32.

    Args:
        build: makes the network on the device named; on ``"meta"`` no weights are allocated.
        tensors: the state dict; floating-point tensors become float32. Batch counters may lack.

    """
    model = build("meta")
    wanted = model.state_dict()
    if any(name not in wanted for name, _ in model.named_buffers()):
        model = build("cpu")  # tables that the constructor computes and no file holds
    state = {
        name: t.detach().float() if t.is_floating_point() else t.detach()
        for name, t in tensors.items()
        if name in wanted
    }
    for name, like in wanted.items():
        if name not in state:
            state[name] = torch.zeros(like.shape, dtype=like.dtype)
    return put_tensors(model, state, assign=True).requires_grad_(False).eval()
