"""What has been made for some sizes, kept for the next time they are asked for."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")
REMEMBERED = 256  # sets of sizes
MOST_BYTES = 16 << 20  # of each cache
MODULE_BYTES = 2400  # of a module without weights, as measured in networks of 58 and 273


class Cache(Generic[Value]):
    """Keeps the values last used, within a number and a size; at least the last one.

    Args:
        most: how many values.
        most_bytes: how much they may take, None for as much as they do.

    """

    def __init__(self, most: int = REMEMBERED, most_bytes: int | None = MOST_BYTES) -> None:
        self.most, self.most_bytes = most, most_bytes
        self.bytes = 0
        self._kept: dict[Hashable, tuple[Value, int]] = {}

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value that is kept under a key, or a new one."""
        if key in self._kept:
            self._kept[key] = kept = self._kept.pop(key)  # the last one used
            return kept[0]
        value = make()
        own = 0 if self.most_bytes is None else held_bytes(value)
        self._kept[key] = value, own
        self.bytes += own
        while len(self._kept) > 1 and self._is_full():
            _, least = self._kept.pop(next(iter(self._kept)))
            self.bytes -= least
        return value

    def _is_full(self) -> bool:
        over = self.most_bytes is not None and self.bytes > self.most_bytes
        return over or len(self._kept) > self.most

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Value]:
        """The values, the one last used at the end."""
        return iter([value for value, _ in self._kept.values()])


def held_bytes(value: Any) -> int:
    """About how much memory a value takes: its arrays and modules, also those that it shares."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if hasattr(value, "modules"):
        return MODULE_BYTES * sum(1 for _ in value.modules())
    if isinstance(value, Mapping):
        return sum(map(held_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(held_bytes, value))
    if is_dataclass(value):
        return sum(held_bytes(getattr(value, field.name)) for field in fields(value))
    return 0
