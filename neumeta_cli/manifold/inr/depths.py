"""Depth as a coordinate: which blocks go, and how many of those that may a run lacks."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from neumeta_cli.errors import NeumetaError
from neumeta_cli.resize import silent_weights

if TYPE_CHECKING:
    from neumeta_cli.manifold.inr.coordinates import TensorSpec
    from neumeta_cli.resize import Frame
    from neumeta_cli.trace import Operator


class Depths:
    """The blocks of a network that go, run by run.

    The depth coordinate of a run is the share that is missing of those of its blocks that may go: 0
    for the checkpoint, 1 where none of them is left.

    Args:
        frame: the network.
        blocks: in the order in which they go.
        added: how many copies follow a block, by its name.

    Attributes:
        order: for each run that has any, its own in this order.
        blocks: of all runs, in this order.
        added: as it was given, but for blocks whose copies would add nothing for ever.

    Raises:
        NeumetaError: one of them is no block that can go, or that so many others can follow.

    """

    def __init__(
        self, frame: "Frame", blocks: Sequence[str], added: Mapping[str, int] | None = None
    ) -> None:
        self.order: dict[str, tuple[str, ...]] = {}
        self._inside: dict[str, tuple[str, ...]] = {}
        self.blocks: tuple[str, ...] = ()
        self.added = dict(added or {})
        room = {r.last: r.most - len(r.blocks) for r in frame.runs if r.last} if added else {}
        for block, count in self.added.items():
            if count > room.get(block, 0):
                there = ", ".join(f"{most} after {last}" for last, most in room.items()) or "none"
                raise NeumetaError(
                    f"inr.added: {count} after {block or 'nothing'}; what can be added: {there}"
                )
        if not blocks:  # finding runs takes a moment
            return
        able = [block for run in frame.runs for block in run.removable]
        for block in blocks:
            if block not in able:
                there = ", ".join(able) or "none"
                raise NeumetaError(f"inr.blocks: {block} is no block that can go ({there})")
        for run in frame.runs:
            going = [block for block in blocks if block in run.removable]
            if most := min(len(going), len(run.blocks) - run.fewest):
                self.order[run.name] = tuple(going[:most])
                self._inside[run.name] = run.blocks
        self.blocks = self._in_order(blocks, self.order.values())

    def keep(self, operators: "Sequence[Operator]", learnt: Collection[str]) -> None:
        """Leave out what is added where none of these weights makes what its copies add.

        Args:
            operators: of the network's trace.
            learnt: the weights of the blocks whose copies have something to learn.

        """
        self.added = {
            block: count
            for block, count in self.added.items()
            if not silent_weights(operators, block).isdisjoint(learnt)
        }

    @staticmethod
    def _in_order(blocks: Sequence[str], some: Iterable[Sequence[str]]) -> tuple[str, ...]:
        chosen = {block for group in some for block in group}
        return tuple(block for block in blocks if block in chosen)

    def gone(self, counts: Mapping[str, int]) -> tuple[str, ...]:
        """The blocks that are missing, in the order in which they go.

        Args:
            counts: of the blocks that each run lacks, by its name; others lack none, nor do those
                with a number below 0.

        """
        missing = (order[: max(0, counts.get(run, 0))] for run, order in self.order.items())
        return self._in_order(self.blocks, missing)

    def missing(self, dropped: Sequence[str]) -> dict[str, float]:
        """The depth coordinate of each run."""
        gone = set(dropped)
        return {run: len(gone.intersection(o)) / len(o) for run, o in self.order.items()}

    def governing(self, specs: Sequence["TensorSpec"]) -> dict[str, str]:
        """The run whose depth a tensor follows: the one that it lies in, or the last before it.

        Args:
            specs: in the order of the forward pass.

        Returns:
            The run for each name; tensors before the first run have none.

        """
        found, last = {}, ""
        for spec in specs:
            for run, blocks in self._inside.items():
                if any(spec.name.startswith(f"{block}.") for block in blocks):
                    last = run
            if last:
                found[spec.name] = last
        return found

    def last_coordinate(self, name: str, run: str) -> float:
        """Up to which depth coordinate of its run a tensor is there; 1 if its block never goes."""
        order = self.order[run]
        for number, block in enumerate(order):
            if name.startswith(f"{block}."):
                return number / len(order)
        return 1.0


def come_in(knots: Sequence[float], at: float) -> list[float]:
    """What the change at each knot counts: a line from 0 at the knot before to 1 at its own.

    >>> come_in([0.25, 0.5], 0.375)
    [1.0, 0.5]
    """
    return [
        min(1.0, max(0.0, (at - low) / (knot - low)))
        for low, knot in zip((0.0, *knots), knots, strict=False)
    ]
