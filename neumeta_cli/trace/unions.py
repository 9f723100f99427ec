"""What is equal, directly or through others: as it is said, and of many pairs at once.

Networkx and SciPy have both; to import them takes as long as to trace a network.
"""

import numpy as np


class Unions:
    """Disjoint sets of whole numbers that unite as they are told; each starts on its own."""

    def __init__(self) -> None:
        self._above: dict[int, int] = {}

    def root(self, member: int) -> int:
        """The one that stands for the set of ``member``."""
        path = []
        while (above := self._above.get(member, member)) != member:
            path.append(member)
            member = above
        self._above |= dict.fromkeys(path, member)
        return member

    def unite(self, a: int, b: int) -> None:
        """Make the sets of ``a`` and ``b`` one."""
        self._above[self.root(a)] = self.root(b)


def components(count: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Connected components of a graph, by their smallest node.

    Args:
        count: nodes, 0 to ``count - 1``.
        a: (edges,) one end of each.
        b: (edges,) the other.

    Returns:
        (count,) the component of each node, numbered by their smallest nodes.

    """
    root = np.arange(count)
    a, b = root[a], root[b]
    while (apart := a != b).any():
        a, b = a[apart], b[apart]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while ((further := root[root]) != root).any():
            root = further
        a, b = root[a], root[b]
    return (np.cumsum(root == np.arange(count)) - 1)[root]
