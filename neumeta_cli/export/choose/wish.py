"""Which channels a network is to have: widths by pattern, channels by module, multiples."""

import difflib
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise

from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import Manifold
from neumeta_cli.resize import Cost, check_width
from neumeta_cli.trace import Clique

CLOSE = 4  # names that an error lists


@dataclass(frozen=True)
class Wish:
    """What a user says of widths.

    Attributes:
        everywhere: the width of the cliques that nothing else names; None leaves them to a budget.
        named: (pattern, width): module paths, prefixes, globs or names of cliques.
        channels: (module, its output channels).
        multiple: every clique has a multiple of so many channels, where it has as many at all.

    """

    everywhere: float | None = None
    named: tuple[tuple[str, float], ...] = ()
    channels: tuple[tuple[str, int], ...] = ()
    multiple: int = 1

    @property
    def names_some(self) -> bool:
        return bool(self.named or self.channels)


class Choice:
    """The networks that a wish leaves: one for each common width of the cliques it does not name.

    Cliques that a forward pass needs alike go together: naming one names all. Of a LeNet with 16
    and 32 maps and 64 and 32 units, let the first linear layer have a quarter, whatever the others
    have, and all of them multiples of 8::

        >>> choice = Choice(manifold, Wish(named=(("fc1", 0.25),), multiple=8))
        >>> choice.sizes(0.7)
        {'conv1': 8, 'conv2': 24, 'fc1': 16, 'fc2': 24}

    Args:
        manifold: whose cliques in scope have widths.
        wish: what the user says.

    Attributes:
        named: width by clique, for those that the wish names.
        free: groups of cliques that it does not.

    Raises:
        NeumetaError: a pattern that fits nothing, a number of channels that is not possible, two
            widths for one clique.

    """

    def __init__(self, manifold: Manifold, wish: Wish) -> None:
        self.manifold, self.wish = manifold, wish
        if wish.multiple < 1:
            raise NeumetaError(f"cannot round channels to multiples of {wish.multiple}; try 8")
        self.full = manifold.frame.full
        self._groups = [sorted(g) for g in manifold.frame.linked]
        self.named = self._resolve()
        self.free = [group for group in self._groups if not set(group) <= set(self.named)]

    def sizes(self, width: float | Mapping[str, float]) -> dict[str, int]:
        """Channels of each clique where the others have this width, or a width for each by name."""
        names = [name for group in self.free for name in group]
        given = dict.fromkeys(names, width) if isinstance(width, int | float) else dict(width)
        for value in given.values():
            check_width(value)
        sizes = self.manifold.frame.sizes(given | self.named)
        if self.wish.multiple == 1:
            return sizes
        exact = self._with_linked([self._making(module) for module, _ in self.wish.channels])
        rounded = {
            name: n if name in exact else self._rounded(n, self.full[name])
            for name, n in sizes.items()
        }
        return self.manifold.frame.sizes({name: n / self.full[name] for name, n in rounded.items()})

    def grid(self) -> list[float]:
        """Common widths up to 1, ascending: one for each network that differs from the last.

        Each is the shortest decimal number that gives its network.
        """
        counts = {self.full[name] for group in self.free for name in group}
        steps = sorted({(k - 0.5) / count for count in counts for k in range(2, count + 1)})
        edges = [0.0, *steps, 1.0 + 0.5 / max(counts, default=1)]
        found: list[tuple[float, dict[str, int]]] = []
        for low, high in pairwise(edges):
            sizes = self.sizes((low + high) / 2)
            if not found or sizes != found[-1][1]:
                short = _shortest(low, high, functools.partial(self._gives, sizes))
                found.append((short, sizes))
        return [width for width, _ in found]

    def _gives(self, sizes: Mapping[str, int], width: float) -> bool:
        return self.sizes(width) == sizes

    def _rounded(self, count: int, full: int) -> int:
        multiple = self.wish.multiple
        most = max(count, full) // multiple * multiple
        return min(most, max(multiple, math.floor(count / multiple + 0.5) * multiple)) or full

    def _resolve(self) -> dict[str, float]:
        """Width by clique; a number of channels goes before patterns, the last of these counts."""
        patterns: dict[str, float] = {}
        for pattern, width in self.wish.named:
            check_width(width)
            patterns |= dict.fromkeys(self._with_linked(self._matching(pattern)), width)
        exact: dict[str, float] = {}
        for module, count in self.wish.channels:
            clique = self._making(module)
            wanted = dict.fromkeys(self._with_linked([clique]), self._width_for(module, count))
            for name, width in wanted.items():
                if exact.get(name, width) != width:
                    raise NeumetaError(
                        f"--channels {module}={count}: another --channels gives {name}, "
                        f"which these share, {self.full[name] * exact[name]:g} channels"
                    )
            exact |= wanted
        return patterns | exact

    def _with_linked(self, cliques: Sequence[str]) -> list[str]:
        return [n for group in self._groups if set(group) & set(cliques) for n in group]

    def _matching(self, pattern: str) -> list[str]:
        """Cliques with that name, else those of weights in modules that the pattern fits.

        With a mark that names of cliques alone have, as of heads, it is a pattern of such names.
        """
        if pattern in self.full:
            return [pattern]
        marked = "@" in pattern or "#" in pattern
        found = [name for name in self.full if marked and fnmatchcase(name, pattern)] or [
            name
            for name, clique in self._cliques().items()
            if any(_fits(module, pattern) for module in self._makers(clique))
        ]
        if not found:
            raise NeumetaError(f"--width {pattern}: fits no clique{self._near(pattern)}")
        return found

    def _making(self, module: str) -> str:
        """The one clique of a module's output channels."""
        modules = {_module(name) for name in self.manifold.frame.trace.shapes}
        if module not in modules:
            raise NeumetaError(f"--channels {module}: no such module{self._near(module)}")
        output = self._output(module)
        found = [
            name
            for name, clique in self._cliques().items()
            if any((m.weight, m.dim) == output for m in clique.members)
        ]
        if not found:
            raise NeumetaError(
                f"--channels {module}: its output channels cannot change here{self._near(module)}"
            )
        if len(found) > 1:
            raise NeumetaError(
                f"--channels {module}: its outputs belong to several cliques; "
                f"give --width for each of {', '.join(found)}"
            )
        return found[0]

    def _width_for(self, module: str, count: int) -> float:
        """The width at which the module has so many output channels, all others being full."""
        (weight, dim), clique = self._output(module), self._making(module)
        group, full = self._with_linked([clique]), self.full[clique]

        def channels(n: int) -> int:
            widths = dict.fromkeys(self.full, 1.0) | dict.fromkeys(group, n / full)
            return self.manifold.frame.shapes(self.manifold.frame.sizes(widths))[weight][dim]

        least, each = channels(1), max(1, channels(full + 1) - channels(full))
        n = max(1, 1 + (count - least) // each)
        if channels(n) == count:
            return n / full
        near = dict.fromkeys((channels(n), channels(n + 1)) if count > least else (least,))
        steps = f" in steps of {each}" if each > 1 else ""
        raise NeumetaError(
            f"--channels {module}={count}: not possible, it has {least} or more{steps}; "
            f"try {' or '.join(map(str, near))}"
        )

    def _output(self, module: str) -> tuple[str, int]:
        """The weight that makes a module's output channels, and their dimension."""
        frame = self.manifold.frame
        names = [n for n in frame.trace.shapes if _module(n) == module and n in frame.layouts]
        weight = f"{module}.weight" if module else "weight"
        weight = weight if weight in names else names[0]
        return weight, frame.output(weight)

    def _makers(self, clique: Clique) -> set[str]:
        """The modules whose outputs run along a clique."""
        members = [(m.weight, m.dim, _module(m.weight)) for m in clique.members]
        return {module for weight, dim, module in members if dim == self._output(module)[1]}

    def _cliques(self) -> dict[str, Clique]:
        return {clique.name: clique for clique in self.manifold.frame.cliques}

    def _near(self, name: str) -> str:
        """How to go on after a name that is none: those that come close."""
        modules = set().union(*(self._makers(c) for c in self._cliques().values()))
        prefixes = {".".join(m.split(".")[:n]) for m in modules for n in range(1, m.count(".") + 2)}
        known = sorted(prefixes | set(self.full))
        close = difflib.get_close_matches(name, known, n=CLOSE, cutoff=0.5)
        return f"; in scope are {', '.join(close or [*list(self.full)[:CLOSE], '…'])}"


def cost_of(manifold: Manifold, sizes: Mapping[str, int]) -> Cost:
    """Parameters, MACs and bytes of the network of these sizes, without any weights.

    Raises:
        NeumetaError: its forward pass does not run, or it is larger than this machine's memory.

    """
    manifold.frame.check_wider(sizes)
    try:
        cost = manifold.frame.cost(sizes)
    except Exception as error:  # whatever a forward pass raises on sizes that it refuses
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NeumetaError(
            f"this network does not run with such widths ({said}); give the cliques of "
            "one stream the same width"
        ) from error
    if cost.bytes > (memory := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
        raise NeumetaError(
            f"such widths make a network of {cost.bytes >> 30:,} GiB, and this machine has "
            f"{memory >> 30} GiB of memory; give smaller ones"
        )
    return cost


def mean_width(manifold: Manifold, sizes: Mapping[str, int]) -> float:
    """Kept over full channels of all cliques in scope together."""
    full = manifold.frame.full
    return round(sum(sizes[name] for name in full) / sum(full.values()), 6)


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _fits(module: str, pattern: str) -> bool:
    """Whether a pattern is a module's path, the beginning of it, or a glob of either."""
    parts = module.split(".")
    return any(fnmatchcase(".".join(parts[:n]), pattern) for n in range(1, len(parts) + 1))


def _shortest(low: float, high: float, fits: Callable[[float], bool]) -> float:
    """The number with the fewest digits in [low, high) that fits."""
    for digits in range(1, 16):
        unit = 10.0**-digits
        short = round(math.ceil(low / unit) * unit, digits)
        for candidate in (short, round(short + unit, digits)):
            if 0 < candidate < high and fits(candidate):
                return candidate
    return (low + high) / 2
