"""Freed memory that is kept for the next step, and how much of it."""

from neumeta_cli.hardware import give_back_memory, resident_bytes

ROOM = 1.15  # times what a step takes
LEAST_BYTES = 64 << 20  # are kept in any case


class KeptMemory:
    """Gives freed memory back when more is kept than steps need.

    Blocks that were freed serve the next step (``keep_freed_memory``). But networks of a fit have
    other sizes in each step: blocks of one leave holes that those of the next do not fit into, and
    what an evaluation took is kept for good. So a step that begins with nothing kept tells what one
    takes, and when clearly more than that lies beyond what is in use, all is given back.
    Memory then is cleared anew in the next step, so this is not done in every one.
    """

    def __init__(self) -> None:
        self._begun: int | None = None  # resident, with nothing kept
        self._needed = 0  # the most that a step took
        self._fresh = False  # whether the next step is to be measured

    def before(self, step: bool = True) -> None:
        """A step is to come, or something else, whose blocks are of other sizes.

        Before that, and before the first step, what is kept is given back.
        """
        if self._begun is None or (not step and self._kept() > LEAST_BYTES):
            self._give_back()

    def after(self, step: bool = True) -> None:
        """A step was taken, or something else, whose blocks the next step has no use for."""
        kept = self._kept()
        if not step:
            self.before(step=False)
        elif self._fresh:
            self._needed, self._fresh = max(self._needed, kept), False
        elif kept > max(LEAST_BYTES, ROOM * self._needed):
            self._give_back()

    def _kept(self) -> int:
        """Bytes beyond what was there when all was given back, 0 where nobody knows."""
        now = resident_bytes()
        return 0 if now is None or self._begun is None else now - self._begun

    def _give_back(self) -> None:
        give_back_memory()
        self._begun, self._fresh = resident_bytes(), True
