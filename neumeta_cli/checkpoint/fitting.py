"""Whether the tensors of a file go into an architecture, in whichever of its builds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from neumeta_cli.checkpoint.arch import Arch
from neumeta_cli.checkpoint.naming import IGNORED, Reading, read_names
from neumeta_cli.checkpoint.variants import library_renamings, other_builds

MOST_BUILDS = 4  # of one architecture, each with more arguments than the one before


@dataclass(frozen=True)
class Mismatch:
    """How a state dict differs from what an architecture wants."""

    missing: list[str]
    unexpected: list[str]
    reshaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]]  # name, in the file, wanted

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        parts = []
        for label, names in (("missing", self.missing), ("unexpected", self.unexpected)):
            if names:
                more = ", …" if len(names) > 3 else ""
                parts.append(f"{len(names):,} {label} ({', '.join(names[:3])}{more})")
        if self.reshaped:
            name, got, wanted = self.reshaped[0]
            parts.append(
                f"{len(self.reshaped):,} of another shape ({name} is {_by(got)}, not {_by(wanted)})"
            )
        return "; ".join(parts)


@dataclass(frozen=True)
class Fitted:
    """A state dict as one architecture reads it.

    Attributes:
        arch: with the arguments that the tensors ask for.
        model: built so, on the meta device.
        tensors: by the network's names, and those that it does not have.
        reading: how the names in the file were read.
        mismatch: what still differs (false when nothing does).
        converted: names or tensors are others than in the file, as the library itself changes
            those of old files.

    """

    arch: Arch
    model: nn.Module
    tensors: dict[str, Tensor]
    reading: Reading
    mismatch: Mismatch
    converted: bool = False


def compare(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Mismatch:
    """Which keys and shapes of ``tensors`` differ from a model's own state dict ``wanted``."""
    return Mismatch(
        [k for k in wanted if k not in tensors and not k.endswith(IGNORED)],
        [k for k in tensors if k not in wanted and not k.endswith(IGNORED)],
        [
            (k, tuple(tensors[k].shape), tuple(w.shape))
            for k, w in wanted.items()
            if k in tensors and tensors[k].shape != w.shape
        ],
    )


def fit_arch(arch: Arch, tensors: Mapping[str, Tensor]) -> Fitted:
    """Read a state dict for an architecture, in that build of it that the tensors ask for.

    The number of classes and of input channels, heads that are not there, the size of images and
    names that the library itself changes in old files are found out; a user's own factory is built
    as it is, and so is one that was narrowed.

    Args:
        arch: what to build first.
        tensors: by their names in the file.

    """
    first = _fit(arch, tensors)
    if not first.mismatch or arch.cuts:
        return first
    for fitted in (*_builds(first, tensors), *_renamed(first, tensors)):
        if not fitted.mismatch:
            return fitted
    return first


def _fit(arch: Arch, tensors: Mapping[str, Tensor]) -> Fitted:
    model = arch.build()
    wanted = model.state_dict()
    reading = read_names(tensors, wanted)
    named = {name: tensors[old] for name, old in reading.names.items()}
    return Fitted(arch, model, named, reading, compare(wanted, named))


def _builds(first: Fitted, tensors: Mapping[str, Tensor]) -> Iterator[Fitted]:
    """Other builds of a library's network, each mending what differs in the one before."""
    fitted = first
    for _ in range(MOST_BUILDS):
        shapes = {name: tuple(tensor.shape) for name, tensor in fitted.tensors.items()}
        more = other_builds(fitted.arch, fitted.model, fitted.mismatch, shapes)
        if not more:
            return
        arch = replace(fitted.arch, kwargs={**fitted.arch.kwargs, **more})
        try:
            fitted = _fit(arch, tensors)
        except Exception:  # a factory that takes no such argument: the first mismatch stands
            return
        yield fitted


def _renamed(first: Fitted, tensors: Mapping[str, Tensor]) -> Iterator[Fitted]:
    """What fits once names are changed as the library, or the network itself, changes them."""
    for changed in library_renamings(first.arch, first.model, first.tensors):
        fitted = _fit(first.arch, changed)
        for again in (fitted, *_builds(fitted, changed)):
            left_out = (*first.reading.left_out, *again.reading.left_out)
            reading = replace(again.reading, left_out=left_out, copies=first.reading.copies)
            yield replace(again, reading=reading, converted=True)


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a scalar"
