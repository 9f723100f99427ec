"""Which architecture a state dict belongs to, when nobody says."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from torch import Tensor

from neumeta_cli.checkpoint.arch import LIBRARIES, Arch, fit_arch, names_of
from neumeta_cli.checkpoint.known import KnownNames, Names, known_names
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Reporter

MAX_NAMED = 24  # how many architectures named by the file's name are built and compared
MAX_LISTED = 8  # how many fitting ones an error lists


def detect_arch(
    path: Path, tensors: Mapping[str, Tensor], reporter: Reporter
) -> tuple[Arch, list[Arch]]:
    """Find the architecture by the file's name, then by the tensors' names and shapes.

    Args:
        path: the file.
        tensors: what it holds.
        reporter: is told of the progress when all architectures are gone through.

    Returns:
        The architecture, and others of the same name in another library that fit as well.

    Raises:
        NeumetaError: none fits, or several do and the file's name does not say which.

    """
    with known_names() as known:
        return _detect(path, tensors, known, reporter)


def _detect(
    path: Path, tensors: Mapping[str, Tensor], known: KnownNames, reporter: Reporter
) -> tuple[Arch, list[Arch]]:
    named = _fitting(_named_by(path.stem), tensors, known)
    if named:
        best = len(named[0].short)
        same = [arch for arch in named if len(arch.short) == best]
        if len({arch.short for arch in same}) == 1:
            return same[0], same[1:]
        raise _ambiguous(path, same)
    fitting = []
    for library in LIBRARIES:
        fitting += _fitting(_candidates(library, tensors, known, reporter), tensors, known)
    if len(fitting) == 1:
        return fitting[0], []
    if not fitting:
        raise NeumetaError(
            f"{path} fits no architecture of ours, torchvision's or timm's; "
            "name it with --arch (package.module:factory for a network of your own)"
        )
    raise _ambiguous(path, fitting)


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
    candidates: list[Arch], tensors: Mapping[str, Tensor], known: KnownNames
) -> list[Arch]:
    own, fitting = Names.of(tensors), []
    for candidate in candidates:
        names = known.of(candidate)
        if names is None or names.digest != own.digest:
            continue
        try:
            arch, mismatch = fit_arch(candidate, tensors)
        except Exception:  # a library's model that cannot be built here fits nothing
            continue
        if not mismatch:
            fitting.append(arch)
    return fitting


def _candidates(
    library: str, tensors: Mapping[str, Tensor], known: KnownNames, reporter: Reporter
) -> list[Arch]:
    """Those models of a library whose family has the file's top-level names."""
    tops = Names.of(tensors).tops
    names, families = [], _families(library)
    reporter.start(f"look through {library}", len(families))
    for family, members in families.items():
        reporter.advance()
        probe = known.of(Arch(f"{library}/{family}"))
        if probe is not None and probe.tops == tops:
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
