"""From a weights file to a network."""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neumeta_cli.checkpoint.arch import PUBLISHED, Arch, as_published, recorded_arch, resolve
from neumeta_cli.checkpoint.assign import put_tensors
from neumeta_cli.checkpoint.cuts import InputSize, parse_cut, parse_size
from neumeta_cli.checkpoint.detect import detect_arch
from neumeta_cli.checkpoint.fitting import Fitted, fit_arch
from neumeta_cli.checkpoint.given import was_given
from neumeta_cli.checkpoint.integrity import refusing
from neumeta_cli.checkpoint.usable import check_usable, looks_quantised
from neumeta_cli.checkpoint.version import NETWORK, check_version
from neumeta_cli.checkpoint.weights import Weights, read_weights
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Reporter, Silent

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
    trust_code: bool = False,
) -> Checkpoint:
    """Read a checkpoint, or a network that was exported, and build its network.

    Args:
        path: weights file; pickled code in it is never run.
        arch: architecture or its name; found from the file's metadata, name and tensors if None.
        input_size: (C, H, W); the architecture's own if None.
        reporter: is told of the progress where the architecture has to be searched for, and which
            tensors were taken where the file has others too.
        weights_key: which of several state dicts in the file, by its key or by the prefix of its
            names.
        trust_code: import the user's module that the file names, as naming it in ``arch`` does.

    Raises:
        NeumetaError: the file cannot be read, it does not fit the architecture, or its tensors are
            none that a network can compute with.

    """
    path, reporter = Path(path), reporter or Silent()
    weights = read_weights(path, weights_key)
    kind = weights.metadata.get("kind", "checkpoint")
    if kind == NETWORK:
        check_version(path, weights.metadata, NETWORK)
    elif kind != "checkpoint":
        raise NeumetaError(
            f"{path} is a neumeta {kind}, not a checkpoint; see: neumeta info {path}"
        )
    others: list[Arch] = []
    asked = resolve(arch) if isinstance(arch, str) else arch
    found = _recorded(path, kind, weights.metadata, asked, trust_code)
    if found is None:
        found, others = detect_arch(path, weights.tensors, reporter)
        found = as_published(found)
    with refusing(path, kind) if found.cuts else nullcontext():
        fitted = fit_arch(found, weights.tensors)
    _refuse(path, fitted)
    weights = _as_named(weights, fitted)
    check_usable(path, weights, fitted.model)
    for line in _remarks(found, fitted.arch, weights):
        reporter.tell(f"{path}: {line}")
    found = fitted.arch
    model = materialise(found, weights.tensors)
    if input_size is None:
        with refusing(path, "checkpoint"):
            size = weights.metadata.get("input_size")
            input_size = found.default_input_size() if size is None else parse_size(size)
    return Checkpoint(model, found, input_size, weights, path, tuple(others))


def is_narrowed(weights: Weights) -> bool:
    """Whether a file says that its network was narrowed."""
    arch = weights.metadata.get("arch")
    cut = isinstance(arch, Mapping) and bool(arch.get("cuts"))
    return cut or weights.metadata.get("kind") == NETWORK


def _recorded(
    path: Path, kind: str, metadata: Mapping[str, Any], asked: Arch | None, trust_code: bool
) -> Arch | None:
    """The architecture that a user names or a file records; None where neither does.

    A narrowed network is what its file says, whatever arguments the user has for the whole one.
    """
    with refusing(path, kind):
        recorded = metadata["arch"] if kind == NETWORK else metadata.get("arch")
        cuts = [] if not recorded else list(recorded.get("cuts", ()))
        cuts += [metadata] if kind == NETWORK else []
        if not recorded or (asked is not None and not cuts):
            return asked
        name = str(recorded["name"])
        named = asked is not None and asked.name == name
        if asked is not None and not named:
            raise NeumetaError(
                f"{path} was narrowed from {name}, not from {asked.name}; leave out --arch, or "
                "take a recipe of its architecture"
            )
        own = ":" in name
        trusted = trust_code or (own and (named or was_given(name, recorded["kwargs"])))
        if own and not trusted:
            raise NeumetaError(
                f"{path} names code of its own, {name}, which is not imported without "
                f"permission; if you trust it, say --arch {name}, or --trust-code where the "
                "command has it (trust_code=True in Python)"
            )
        arch = recorded_arch(recorded, trusted)
        return replace(arch, cuts=tuple(map(parse_cut, cuts)))


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
    assumed = PUBLISHED.get(arch.name, {})
    if (
        assumed
        and not weights.metadata
        and all(arch.kwargs.get(k) == v for k, v in assumed.items())
    ):
        built = ", ".join(f"{key}={value!r}" for key, value in assumed.items())
        lines.append(
            f"{arch.name} built with {built}, as for torchvision's own weights; model.kwargs in a "
            "recipe says otherwise"
        )
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
    more = f" and {len(every) - MOST_NAMED:,} more" if len(every) > MOST_NAMED else ""
    return ", ".join(every[:MOST_NAMED]) + more


def materialise(arch: Arch, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Build a network around ``tensors``, which it shares where they are already float32.

    Args:
        arch: how to build it.
        tensors: the state dict; floating-point tensors become float32. Batch counters may lack.

    """
    model = arch.build_with_tables()
    wanted = model.state_dict()
    state = {
        name: t.detach().float() if t.is_floating_point() else t.detach()
        for name, t in tensors.items()
        if name in wanted
    }
    for name, like in wanted.items():
        if name not in state:
            state[name] = torch.zeros(like.shape, dtype=like.dtype)
    return put_tensors(model, state, assign=True).requires_grad_(False).eval()
