"""Which architecture a state dict belongs to, when nobody says."""

import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from torch import Tensor

from neumeta_cli.checkpoint.arch import LIBRARIES, Arch, names_of
from neumeta_cli.checkpoint.fitting import Fitted, fit_arch
from neumeta_cli.checkpoint.known import KnownNames, Names, known_names
from neumeta_cli.checkpoint.naming import guesses
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Reporter
from neumeta_cli.signatures import alike, likeliness, listed

MAX_NAMED = 24  # how many architectures named by the file's name are compared by their names
MAX_BUILT = 6  # and how many of these are built in other ways too
NEAR = 0.5  # of an architecture's names in a file whose name tells it: then it is meant


def detect_arch(
    path: Path, tensors: Mapping[str, Tensor], reporter: Reporter
) -> tuple[Arch, list[Arch]]:
    """Find the architecture by the file's name, then by the tensors' names and shapes.

    Args:
        path: the file.
        tensors: what it holds, by their names in the file.
        reporter: is told of the progress when all architectures are gone through.

    Returns:
        The architecture, and others that fit as well: those that the file's name says, else the
        likeliest first, torchvision's before timm's and plain ones before variants.

    Raises:
        NeumetaError: none fits, or the file's name says one that nearly fits.

    """
    with known_names() as known:
        return _detect(path, tensors, known, reporter)


def _detect(
    path: Path, tensors: Mapping[str, Tensor], known: KnownNames, reporter: Reporter
) -> tuple[Arch, list[Arch]]:
    named = _named_by(path.stem)
    readings = [{n: tensors[old] for n, old in guess.items()} for guess in guesses(tensors)]
    told = next(_fitting(named, readings, known), None)
    if told is None and named:
        tried = [fitted for arch in named[:MAX_BUILT] if (fitted := _tried(arch, tensors))]
        told = next((fitted.arch for fitted in tried if not fitted.mismatch), None)
        if told is None:
            _refuse_near(path, tried)
    if told is not None:
        same = {name for reading in readings for name, equal in _alike(reading).items() if equal}
        also = [a for a in named if a.name in same and len(a.short) == len(told.short)]
        return told, [arch for arch in also if arch.name != told.name]
    ours = list(_fitting(_candidates("zoo", readings, known, reporter), readings, known))
    if ours:
        return ours[0], ours[1:]
    if found := _known_alike(readings):
        return found
    fitting: list[Arch] = []
    for library in LIBRARIES[1:]:
        if not set(_names(library)) <= set(listed(library) or ()):  # else the table was enough
            candidates = _candidates(library, readings, known, reporter)
            fitting += _fitting(candidates, readings, known)
    if not fitting:
        raise NeumetaError(
            f"{path} fits no architecture of ours, torchvision's or timm's; "
            "name it with --arch (package.module:factory for a network of your own)"
        )
    likeliest, *others = sorted(fitting, key=lambda arch: likeliness(arch.name))
    return likeliest, others


def _known_alike(readings: list[dict[str, Tensor]]) -> tuple[Arch, list[Arch]] | None:
    """The likeliest of the networks whose names and shapes we know, once it was built and fits.

    Only this one is built: to build the others too takes a library more, and minutes.
    """
    for reading in readings:
        found = _alike(reading)
        for name, equal in found.items():
            fitted = _tried(Arch(name), reading)
            if fitted and not fitted.mismatch:
                others = [Arch(n) for n, same in found.items() if same and n != name]
                return fitted.arch, others if equal else []
    return None


def _alike(reading: Mapping[str, Tensor]) -> dict[str, bool]:
    return alike({name: tuple(tensor.shape) for name, tensor in reading.items()})


def _tried(arch: Arch, tensors: Mapping[str, Tensor]) -> Fitted | None:
    """An architecture in whichever of its builds comes closest; None if it cannot be built here."""
    try:
        return fit_arch(arch, tensors)
    except Exception:  # a library's model that cannot be built here fits nothing
        return None


def _refuse_near(path: Path, tried: list[Fitted]) -> None:
    """Tell what differs from the architecture that a file's name says, if most does not."""
    for fitted in tried:
        wanted = len(fitted.model.state_dict())
        missing = len(fitted.mismatch.missing)
        if wanted - missing >= NEAR * wanted:
            raise NeumetaError(
                f"{path} does not fit {fitted.arch.name}, which its name says: {fitted.mismatch}; "
                "name the architecture with --arch"
            )


def _named_by(stem: str) -> list[Arch]:
    """Architectures whose every word is in the file's name, the longest name first."""
    words = set(re.split(r"[^a-z0-9]+", stem.lower()))
    joined = "_".join(re.split(r"[^a-z0-9]+", stem.lower()))
    found = []
    for rank, library in enumerate(LIBRARIES):
        for name in _names(library):
            whole = name in words or f"_{name}_" in f"_{joined}_"
            # Ours are named for their data too: cifar10_resnet20 is a cifar_resnet20.
            ours = library == "zoo" and all(part in joined for part in name.split("_"))
            if whole or ours:
                found.append((-len(name), rank, f"{library}/{name}"))
    return [Arch(name) for _, _, name in sorted(found)[:MAX_NAMED]]


def _names(library: str) -> tuple[str, ...]:
    """A library's names, without importing timm where the table has them."""
    if library != "timm" or "timm" in sys.modules:  # then a user may have registered more
        return names_of(library)
    return listed(library) or names_of(library)


def _fitting(
    candidates: list[Arch], readings: list[dict[str, Tensor]], known: KnownNames
) -> Iterator[Arch]:
    """Those candidates that some reading of the file's names fits, as they have to be built."""
    by_digest = {Names.of(reading).digest: reading for reading in reversed(readings)}
    for candidate in candidates:
        names = known.of(candidate)
        reading = by_digest.get(names.digest) if names else None
        fitted = _tried(candidate, reading) if reading else None
        if fitted and not fitted.mismatch:
            yield fitted.arch


def _candidates(
    library: str, readings: list[dict[str, Tensor]], known: KnownNames, reporter: Reporter
) -> list[Arch]:
    """Those models of a library whose family has the top-level names of some reading."""
    tops = {Names.of(reading).tops for reading in readings}
    names, families = [], _families(library)
    reporter.start(f"look through {library}", len(families))
    for family, members in families.items():
        reporter.advance()
        probe = known.of(Arch(f"{library}/{family}"))
        if probe is not None and probe.tops in tops:
            names.extend(members)
    reporter.finish()
    return [Arch(f"{library}/{name}") for name in names]


@cache
def _families(library: str) -> dict[str, list[str]]:
    """A representative of each family to its members; torchvision's names are few enough alone."""
    if library != "timm":
        return {name: [name] for name in names_of(library)}
    import timm

    families = {}
    for module in timm.list_modules():
        members = timm.list_models(module=module)
        if members:
            families[min(members, key=len)] = members
    return families
