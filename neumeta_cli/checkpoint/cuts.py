"""How a network was narrowed, so that it can be built again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

InputSize = tuple[int, int, int]
MOST_PIXELS = 1 << 14  # of a side of an input
MOST_CHANNELS = 1 << 16  # of a clique
MOST_ADDED = 256  # copies of a block


@dataclass(frozen=True)
class Cut:
    """One change of the sizes of a network, and of the number of its blocks.

    Attributes:
        input_size: (C, H, W), with which the network is traced.
        sizes: channels of each clique that was in scope.
        fold: whether batch norms are folded into the layers before them.
        heads: what of attention heads a width changes, ``width``, ``count`` or ``both``.
        dropped: names of the blocks that were left out.
        added: how many copies follow a block, by its name.

    """

    input_size: InputSize
    sizes: Mapping[str, int]
    fold: bool = False
    heads: str = "width"
    dropped: tuple[str, ...] = ()
    added: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        told: dict[str, Any] = {
            "input_size": list(self.input_size),
            "sizes": dict(self.sizes),
            "fold": self.fold,
            "heads": self.heads,
        }
        told |= {"dropped": list(self.dropped)} if self.dropped else {}
        return told | ({"added": dict(self.added)} if self.added else {})


def parse_cut(document: Mapping[str, Any]) -> Cut:
    """The reverse of ``Cut.as_dict``; other keys have no effect.

    Raises:
        KeyError, ValueError, TypeError: it is no cut.

    """
    sizes = {str(name): int(size) for name, size in document["sizes"].items()}
    if not all(1 <= size <= MOST_CHANNELS for size in sizes.values()):
        raise ValueError("its sizes are no channels of its architecture's cliques")
    heads = str(document.get("heads", "width"))
    dropped = tuple(map(str, document.get("dropped", ())))
    added = {str(name): int(count) for name, count in document.get("added", {}).items()}
    if not all(1 <= count <= MOST_ADDED for count in added.values()):
        raise ValueError("it has too many blocks after another")
    size, fold = parse_size(document["input_size"]), bool(document["fold"])
    return Cut(size, sizes, fold, heads, dropped, added)


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
