"""How functions are compiled: kept in a folder for later processes, if there is one."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: Numba's ``njit`` without the interpreter's lock, kept for later processes.

    Where neither the package's folder nor the user's cache folder can be written to, as in a
    container, it is compiled anew in each process.

    Args:
        options: more of ``njit``.

    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # "no locator available": Numba found no folder
            return njit(nogil=True, **options)(function)

    return decorate
