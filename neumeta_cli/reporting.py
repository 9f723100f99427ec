"""How long work tells of its progress; the command line draws it, libraries may ignore it."""

from typing import Protocol


class Reporter(Protocol):
    """Receives stages of known length and steps through them."""

    def tell(self, line: str) -> None:
        """Something that a user should know, between stages."""

    def start(self, what: str, total: int) -> None:
        """A stage begins; ``total`` steps follow."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Some steps are done; ``note`` is a short text such as the current loss."""

    def finish(self) -> None:
        """The stage is over."""


class Silent:
    """A reporter that says nothing."""

    def tell(self, line: str) -> None:
        pass

    def start(self, what: str, total: int) -> None:
        pass

    def advance(self, steps: int = 1, note: str = "") -> None:
        pass

    def finish(self) -> None:
        pass


def counted(number: int, thing: str) -> str:
    """``1 epoch``, ``2 epochs``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
