"""What has been made for some sizes, kept for the next time they are asked for."""

from collections.abc import Callable
from typing import Any, TypeVar

Value = TypeVar("Value")
REMEMBERED = 256  # sets of sizes


def remembered(
    cache: dict[Any, Value], key: Any, make: Callable[[], Value], most: int = REMEMBERED
) -> Value:
    """A value from the cache, or made and kept there; of all values the ones last used stay."""
    value = cache.pop(key) if key in cache else make()
    if len(cache) >= most:
        cache.pop(next(iter(cache)))
    cache[key] = value
    return value
