"""Names and shapes of torchvision's and timm's networks, as a table that needs neither to be read.

``signatures.json`` holds a line for each network: a digest of its tensors' names, one of their
shapes, and the modules whose shapes depend on the number of classes; nothing for a network that
cannot be built without allocating it. It tells what is worth
building for a file, and never more: versions differ, so whatever it says is built and compared.
``tests/benchmarks/signatures.py`` writes it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_suffix(".json")
COUNTER = "num_batches_tracked"  # which many files leave out
OURS = "zoo/"
DIGITS = 10  # of a digest in the table
MOST_COLOURS = 4  # input channels of a stem that files may have instead of the usual three

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """What tells networks apart without building them.

    Attributes:
        names: digest of the tensors' names.
        shapes: digest of the names and shapes, without what classes and colours change.
        heads: modules whose shapes the number of classes changes.

    """

    names: str
    shapes: str
    heads: tuple[str, ...]

    @classmethod
    def of(cls, shapes: Mapping[str, Shape], heads: Iterable[str]) -> "Signature":
        """The signature of a network with these tensors.

        Args:
            shapes: by name.
            heads: modules to leave out of the digest of shapes.

        """
        ending = tuple(heads)
        rest = [
            f"{name} {_without_colours(shape)}"
            for name, shape in sorted(shapes.items())
            if not name.endswith(COUNTER) and name.rpartition(".")[0] not in ending
        ]
        return cls(names_digest(shapes), _digest(rest), ending)


def names_digest(names: Iterable[str]) -> str:
    """A digest of names, whatever their order and without counters of batches."""
    return _digest(sorted(name for name in names if not name.endswith(COUNTER)))


def alike(shapes: Mapping[str, Shape]) -> dict[str, bool]:
    """Networks whose tensors have these names, the likeliest first.

    Args:
        shapes: by name, as some file has them.

    Returns:
        ``library/name``, torchvision's before timm's and plain ones before variants, and whether
        the shapes are the same too, but for those that classes and colours change.

    """
    wanted = names_digest(shapes)
    found = {name: known for name, known in _table().items() if known.names == wanted}
    same = {
        name: Signature.of(shapes, known.heads).shapes == known.shapes
        for name, known in found.items()
    }
    return {name: same[name] for name in sorted(found, key=lambda n: (not same[n], *likeliness(n)))}


def likeliness(name: str) -> tuple[int, int, str]:
    """Sorts architectures that fit a file equally, the likeliest first."""
    library, _, bare = name.partition("/")
    return ["zoo", "torchvision", "timm"].index(library), len(bare), bare


def listed(library: str) -> tuple[str, ...] | None:
    """The names of a library's networks, if the table is of the version that is installed."""
    try:
        if _document()["versions"].get(library) != version(library):
            return None
    except PackageNotFoundError:
        return None
    names = (name.partition("/") for name in _document()["networks"])
    return tuple(bare for of, _, bare in names if of == library)


def architecture_names() -> tuple[str, ...]:
    """``library/name`` of all networks in the table, and of ours, without building or importing."""
    return (*(OURS + name for name in _document()["ours"]), *_document()["networks"])


@cache
def _document() -> Any:
    return json.loads(TABLE.read_text("utf-8"))


@cache
def _table() -> dict[str, Signature]:
    entries = {name: entry for name, entry in _document()["networks"].items() if entry}
    return {
        name: Signature(names, shapes, tuple(heads))
        for name, (names, shapes, *heads) in entries.items()
    }


def _without_colours(shape: Shape) -> Shape:
    """A shape in which the few channels of a picture, and of groups of channels, are all alike."""
    few = len(shape) > 2 and shape[1] <= MOST_COLOURS
    return (shape[0], 0, *shape[2:]) if few else shape


def _digest(lines: Iterable[str]) -> str:
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:DIGITS]
