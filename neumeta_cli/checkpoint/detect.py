"""Which architecture a state dict belongs to, when nobody says."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from torch import Tensor

from neumeta_cli.checkpoint.arch import LIBRARIES, Arch, names_of
from neumeta_cli.checkpoint.fitting import Fitted, fit_arch
from neumeta_cli.checkpoint.known import KnownNames, Names, known_names
from neumeta_cli.checkpoint.naming import guesses
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Reporter

MAX_NAMED = 24  # how many architectures named by the file's name are compared by their names
MAX_BUILT = 6  # and how many of these are built in other ways too
MAX_LISTED = 8  # how many fitting ones an error lists
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
        The architecture, and others of the same name in another library that fit as well.

    Raises:
        NeumetaError: none fits, or several do and the file's name does not say which; or the
            file's name says one that nearly fits.

    """
    with known_names() as known:
        return _detect(path, tensors, known, reporter)


def _detect(
    path: Path, tensors: Mapping[str, Tensor], known: KnownNames, reporter: Reporter
) -> tuple[Arch, list[Arch]]:
    named = _named_by(path.stem)
    readings = [{n: tensors[old] for n, old in guess.items()} for guess in guesses(tensors)]
    told = _fitting(named, readings, known)
    if not told and named:
        tried = [fitted for arch in named[:MAX_BUILT] if (fitted := _tried(arch, tensors))]
        told = [fitted.arch for fitted in tried if not fitted.mismatch]
        if not told:
            _refuse_near(path, tried)
    if told:
        best = len(told[0].short)
        same = [arch for arch in told if len(arch.short) == best]
        if len({arch.short for arch in same}) == 1:
            return same[0], same[1:]
        raise _ambiguous(path, same)
    fitting = []
    for library in LIBRARIES:
        candidates = _candidates(library, readings, known, reporter)
        fitting += _fitting(candidates, readings, known)
    if len(fitting) == 1:
        return fitting[0], []
    if not fitting:
        raise NeumetaError(
            f"{path} fits no architecture of ours, torchvision's or timm's; "
            "name it with --arch (package.module:factory for a network of your own)"
        )
    raise _ambiguous(path, fitting)


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


def _ambiguous(path: Path, fitting: list[Arch]) -> NeumetaError:
    names = [arch.name for arch in fitting]
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return NeumetaError(
        f"{path} fits {len(names)} architectures: {', '.join(names[:MAX_LISTED])}{more}; "
        "choose one with --arch"
    )


def _named_by(stem: str) -> list[Arch]:
    """Architectures whose every word is in the file's name, the longest name first."""
    words = set(re.split(r"[^a-z0-9]+", stem.lower()))
    joined = "_".join(re.split(r"[^a-z0-9]+", stem.lower()))
    found = []
    for rank, library in enumerate(LIBRARIES):
        for name in names_of(library):
            whole = name in words or f"_{name}_" in f"_{joined}_"
            # Ours are named for their data too: cifar10_resnet20 is a cifar_resnet20.
            ours = library == "zoo" and all(part in joined for part in name.split("_"))
            if whole or ours:
                found.append((-len(name), rank, f"{library}/{name}"))
    return [Arch(name) for _, _, name in sorted(found)[:MAX_NAMED]]


def _fitting(
    candidates: list[Arch], readings: list[dict[str, Tensor]], known: KnownNames
) -> list[Arch]:
    """Those candidates that some reading of the file's names fits, as they have to be built."""
    by_digest = {Names.of(reading).digest: reading for reading in reversed(readings)}
    fitting = []
    for candidate in candidates:
        names = known.of(candidate)
        reading = by_digest.get(names.digest) if names else None
        fitted = _tried(candidate, reading) if reading else None
        if fitted and not fitted.mismatch:
            fitting.append(fitted.arch)
    return fitting


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
