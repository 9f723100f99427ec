"""From a weights file to a network."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neumeta_cli.checkpoint.arch import Arch, recorded_arch, resolve
from neumeta_cli.checkpoint.assign import put_tensors
from neumeta_cli.checkpoint.detect import detect_arch
from neumeta_cli.checkpoint.fitting import Fitted, fit_arch
from neumeta_cli.checkpoint.integrity import refusing
from neumeta_cli.checkpoint.usable import check_usable, looks_quantised
from neumeta_cli.checkpoint.weights import Weights, read_weights
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Reporter, Silent

InputSize = tuple[int, int, int]
MOST_PIXELS = 1 << 14  # of a side of an input
MOST_NAMED = 3  # tensors that a line lists


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights, and what is known of where it came from.

    Attributes:
        model: in evaluation mode, on the CPU, its floating-point weights as float32.
        arch: how to build it again.
        input_size: (C, H, W) of one input.
        weights: the file as read: its own dtypes, wrappers and other entries.
        path: the file.
        others: architectures that fit as well.

    """

    model: nn.Module
    arch: Arch
    input_size: InputSize
    weights: Weights
    path: Path
    others: tuple[Arch, ...] = ()

    def source(self) -> dict[str, Any]:
        """Which tensors of the file these are, as plain JSON types.

        Returns:
            ``key``, under which they lay in the file; ``copies``, the keys of other weights there;
            ``left_out``, names for which the network has no place.

        """
        return {
            "key": self.weights.key,
            "copies": list(self.weights.copies),
            "left_out": list(self.weights.left_out),
        }


def load_checkpoint(
    path: Path,
    arch: str | Arch | None = None,
    input_size: InputSize | None = None,
    reporter: Reporter | None = None,
    weights_key: str | None = None,
) -> Checkpoint:
    """Read a checkpoint and build its network.

    Args:
        path: weights file; pickled code in it is never run.
        arch: architecture or its name; found from the file's metadata, name and tensors if None.
        input_size: (C, H, W); the architecture's own if None.
        reporter: is told of the progress where the architecture has to be searched for, and which
            tensors were taken where the file has others too.
        weights_key: which of several state dicts in the file, by its key or by the prefix of its
            names.

    Raises:
        NeumetaError: the file cannot be read, it does not fit the architecture, or its tensors are
            none that a network can compute with.

    """
    path, reporter = Path(path), reporter or Silent()
    weights = read_weights(path, weights_key)
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
        found, others = detect_arch(path, weights.tensors, reporter)
    fitted = fit_arch(found, weights.tensors)
    _refuse(path, fitted)
    weights = _as_named(weights, fitted)
    check_usable(path, weights, fitted.model)
    for line in _remarks(found, fitted.arch, weights):
        reporter.tell(f"{path}: {line}")
    found = fitted.arch
    model = materialise(found.build, weights.tensors)
    if input_size is None:
        with refusing(path, "checkpoint"):
            size = weights.metadata.get("input_size")
            input_size = found.default_input_size() if size is None else parse_size(size)
    return Checkpoint(model, found, input_size, weights, path, tuple(others))


def _refuse(path: Path, fitted: Fitted) -> None:
    """Refuse a file that does not fit, or whose names fit in several ways."""
    reading = fitted.reading
    if fitted.mismatch:
        quantised = looks_quantised((*fitted.mismatch.unexpected, *reading.left_out))
        hint = "; it is quantised: give the weights from before" if quantised else ""
        raise NeumetaError(f"{path} does not fit {fitted.arch.name}: {fitted.mismatch}{hint}")
    if reading.rivals:
        raise NeumetaError(
            f"{path} has {fitted.arch.name} more than once: under {', '.join(reading.rivals)}; "
            "choose one with --weights-key (model.weights_key in a recipe)"
        )


def _as_named(weights: Weights, fitted: Fitted) -> Weights:
    """The weights under the network's names, so that they can be written back as they were."""
    reading = fitted.reading
    named = replace(
        weights,
        tensors=fitted.tensors,
        copies=(*weights.copies, *reading.copies),
        left_out=tuple(weights.name_in_file(name) for name in reading.left_out),
        key=".".join(part for part in (weights.key, reading.taken) if part),
    )
    if fitted.converted:  # the file's own form is lost
        return replace(named, names={}, envelope=None, wrapper=())
    own = {name: weights.name_in_file(old) for name, old in reading.names.items()}
    return replace(named, names={name: old for name, old in own.items() if old != name})


def _remarks(asked: Arch, arch: Arch, weights: Weights) -> list[str]:
    """What a user may not expect of the weights that were taken."""
    lines = []
    new = {k: v for k, v in arch.kwargs.items() if asked.kwargs.get(k) != v}
    if new:
        built = ", ".join(f"{key}={value!r}" for key, value in new.items())
        lines.append(f"{arch.name} built with {built}, as its tensors ask for")
    if weights.copies:
        lines.append(
            f"took the weights under {weights.key or 'the top'}, not those under "
            f"{', '.join(weights.copies)}; --weights-key chooses"
        )
    if weights.left_out:
        lines.append(f"left out what {arch.name} has no place for: {_some(weights.left_out)}")
    return lines


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - MOST_NAMED} more" if len(every) > MOST_NAMED else ""
    return ", ".join(every[:MOST_NAMED]) + more


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
