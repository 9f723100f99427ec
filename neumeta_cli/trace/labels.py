"""Labels: which channel stands at which index of a tensor's dimension.

Every index of every dimension of every weight starts as an *atom* of its own, an integer. A label
is the array of atoms along one dimension of a tensor, or None for a dimension that cannot be
permuted (batch, space, network inputs and outputs). Operators tie atoms or fix them; atoms that
are tied, directly or through others, are one *channel*.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Label = np.ndarray | None  # int64 atoms along one dimension
Labels = list[Label]  # one per dimension of a tensor

FIXED = 0  # the atom that every immovable index is tied to


@dataclass
class Atoms:
    """The atoms of one trace, the ties between them, and the arrays in which they occurred."""

    count: int = 1
    ties: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    occurrences: list[np.ndarray] = field(default_factory=list)

    def fresh(self, n: int) -> np.ndarray:
        """Atoms for ``n`` indices, tied to nothing yet."""
        self.count += n
        return np.arange(self.count - n, self.count)

    def tie(self, a: Label, b: Label) -> Label:
        """Index i of ``a`` is the same channel as index i of ``b``; None fixes the other."""
        if a is None or b is None or len(a) != len(b):
            self.fix(a)
            self.fix(b)
            return None
        self.ties.append((a, b))
        return a

    def fix(self, label: Label) -> None:
        """No index of ``label`` may move."""
        if label is not None:
            self.ties.append((label, np.zeros_like(label)))

    def seen(self, label: Label) -> None:
        """Note that an operator treated these atoms alike.

        Two channels may be exchanged only if every operator saw both or neither.
        """
        if label is not None:
            self.occurrences.append(label)

    def channels(self) -> tuple[np.ndarray, np.ndarray]:
        """Solve the ties.

        Returns:
            ``channel``, atom to channel number, and ``signature``, channel number to a 64-bit
            hash of all the arrays in which it occurred: equal for channels of one clique, 0 for
            the fixed channel.

        """
        a, b = ([*side] for side in zip(*self.ties, strict=True)) if self.ties else ([], [])
        rows = np.concatenate([*a, np.zeros(1, np.int64)])
        cols = np.concatenate([*b, np.zeros(1, np.int64)])
        graph = coo_array((np.ones(len(rows), bool), (rows, cols)), (self.count, self.count))
        number, channel = connected_components(graph, directed=False)
        signature = np.zeros(number, np.uint64)
        codes = np.random.default_rng(0).integers(1, 2**63, len(self.occurrences), np.uint64)
        for code, label in zip(codes, self.occurrences, strict=True):
            np.add.at(signature, channel[label], code)
        signature[channel[FIXED]] = 0
        return channel, signature
