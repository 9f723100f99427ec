"""A network tried at other widths, to find what holds it and which numbers must follow.

A forward pass may read sizes from attributes (``self.head_dim``) or have them written out. The
network is run on meta tensors with every clique at half its size. Where that fails, the whole
numbers of the module at hand that equal a size that has changed are tried at the changed size, and
one that lets the run get further is kept for all modules of the class. Where none does, the
cliques around are held at full width.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from neumeta_cli.resize.blocks import across
from neumeta_cli.resize.network import (
    apply_patches,
    numbers,
    resize_model,
    resized_shapes,
    set_number,
)
from neumeta_cli.resize.sizes import linked_cliques, sizes_at, trial_widths
from neumeta_cli.trace import (
    Clique,
    FastShapes,
    Inputs,
    Patch,
    Trace,
    meta_inputs,
    module_names,
)

COUNTS = re.compile(r"^(num|n)_|(?<!dim_)heads?$")  # names of numbers of heads and the like
LEVELS = 4  # how far above the module that failed its numbers are looked for
SINGLES, PAIRS = 30, 20  # how many numbers of a module are tried alone and together
SPREADS, GOLDEN = 3, 0.618  # sets of widths that tell whether some have to be alike
TRIALS = 100  # runs after which cliques are held without looking for better


@dataclass(frozen=True)
class _Outcome:
    """How far a run got: operators that ran, the modules it was in, and why it ended."""

    steps: int
    stack: tuple[str, ...]
    error: str

    @property
    def done(self) -> bool:
        return not self.error

    def beyond(self, other: "_Outcome") -> bool:
        return self.done or self.steps > other.steps


class Search:
    """A network with its cliques made smaller one after the other, and what it took or refused."""

    def __init__(self, model: nn.Module, trace: Trace, inputs: Inputs, skew: float) -> None:
        self.model, self.trace, self.inputs = model, trace, inputs
        self.widths = trial_widths(trace, skew)
        self.held: dict[str, str] = {}
        self.patches: list[Patch] = list(trace.patches)
        self.runs = 0
        self._rows_at: dict[str, set[int]] = {
            name: set() for name in (*trace.shapes, *trace.constants)
        }
        for clique in trace.cliques:
            for member in clique.members:
                self._rows_at[member.weight].add(clique.rows)
        self.active: dict[str, Clique] = {}  # cliques at half their size
        square = [c for c in trace.cliques if c.copies == c.channels > 1]  # as 8 heads of 8
        self._inside = {c.name for c in square}
        self._around = {other.name for c in square for other in across(c, trace.cliques)}
        self._around -= self._inside

    def carriers(self, outer: Clique) -> list[Clique]:
        """Cliques with a width of their own that lie across this one."""
        return across(outer, self.active.values())

    def settle_all(self) -> None:
        """Settle every clique: those that carry a width, then what none of them carries."""
        self.settle([c for c in self.trace.cliques if not c.order_only])
        rest = [c for c in self.trace.cliques if c.order_only]
        rest.sort(key=lambda c: -c.members[0].repeat)  # what lies across others first
        while rest := [c for c in rest if c.name not in self.held and not self.carriers(c)]:
            chosen: list[Clique] = []
            for clique in rest:
                if not across(clique, chosen):
                    chosen.append(clique)
            self.settle(chosen)
            rest = [c for c in rest if c not in chosen]

    def parameters_held(self) -> int:
        """How many weights the cliques that are held govern."""
        return sum(self.trace.parameters_in(c) for c in self.trace.cliques if c.name in self.held)

    def settle(self, cliques: Sequence[Clique]) -> None:
        """Make these cliques resizable or hold them; those of before stay as they are."""
        self.active |= {c.name: c for c in cliques}
        fresh = [c.name for c in cliques]
        while fresh:
            small = self._build(self._sizes())
            outcome = self._run(small)
            if outcome.done:
                return
            if not self._repair(small, outcome):
                held = self._hold(fresh, outcome)
                fresh = [name for name in fresh if name not in held]

    def _sizes(self) -> dict[str, int]:
        return sizes_at(self.trace, self.active, self.widths)

    def told(self, trace: Trace) -> Trace:
        """A trace that tells which cliques are held, and why, and the numbers that follow."""
        cliques = []
        for clique in trace.cliques:
            reason = self.held.get(clique.name, "")
            if clique.order_only and not reason and (inner := self.carriers(clique)):
                reason = f"only its order changes: {', '.join(c.name for c in inner)} has the width"
            cliques.append(replace(clique, held=reason))
        return replace(trace, cliques=tuple(cliques), patches=tuple(self.patches))

    def tied(self) -> set[str]:
        """Cliques that cannot be smaller alone, which sizes in a trial may hide by being alike."""
        groups = linked_cliques(replace(self.trace, alike=()), self.active)
        for number in range(SPREADS):
            places = ((GOLDEN * (n + 1) + number / SPREADS) % 1 for n in range(len(groups)))
            spread = {n: 0.25 + 0.75 * w for g, w in zip(groups, places, strict=True) for n in g}
            if not self.runs_with(spread):
                break
        else:
            return set()
        found: set[str] = set()
        for group in groups:
            less = {n: 1 - 1 / self.active[n].channels for n in group}
            if min(less.values()) > 0 and not self.runs_with(
                dict.fromkeys(self.active, 1.0) | less
            ):
                found.update(group)
        return found

    def runs_with(self, widths: Mapping[str, float]) -> bool:
        return self._run(self._build(sizes_at(self.trace, self.active, widths))).done

    def _build(self, sizes: Mapping[str, int]) -> nn.Module:
        """The network with what is settled; what is known of it holds until the next is built."""
        self._built = sizes
        self._shapes = resized_shapes(self.trace, sizes)
        self._proposed: dict[str, list[Patch]] = {}
        self._sourced: dict[str, dict[int, list[Patch]]] = {}
        trace = replace(self.trace, patches=tuple(self.patches))
        return resize_model(self.model, trace, sizes)

    def _run(self, small: nn.Module) -> _Outcome:
        self.runs += 1
        counter, stack = _Counter(), list[str]()
        args, kwargs = meta_inputs(small, self.inputs)
        try:
            with torch.no_grad(), torch.device("meta"), module_names(small, stack), counter:
                output = small(*args, **kwargs)
        except Exception as error:  # whatever a user's forward raises
            said = str(error).strip().splitlines()
            return _Outcome(counter.steps, tuple(stack), said[0] if said else repr(error))
        shapes = tuple(tuple(t.shape) for t in tree_leaves(output) if isinstance(t, Tensor))
        if shapes != self.trace.output_shapes:
            return _Outcome(counter.steps, (), "the outputs have other shapes")
        return _Outcome(counter.steps, (), "")

    def _repair(self, small: nn.Module, outcome: _Outcome) -> bool:
        """Find numbers in the modules at hand that must follow; True if one helps."""
        below: list[Patch] = []  # of the modules within
        shared: list[list[Patch]] = []
        for name in list(reversed(outcome.stack))[:LEVELS]:
            proposals = self._proposals(small, name)
            pairs = [
                [p, q]
                for p, q in combinations(proposals, 2)
                if (p.attribute, p.place) != (q.attribute, q.place)
            ]
            first = {(p.attribute, p.place): p for p in reversed(proposals)}
            together = [
                [p for (own, _), p in first.items() if own == attribute]
                for attribute in dict.fromkeys(p.attribute for p in proposals)
            ]
            several = [t for t in (*together, list(first.values())) if len(t) > 1]
            alone = [[p] for p in proposals[:SINGLES]]
            if self._try(small, outcome, alone + several + pairs[:PAIRS]):
                return True
            if below:  # a size that a module and its parent both hold, as of a recurrent state
                shared += [below + chosen for chosen in (*alone, *several)]
            below = below + list(first.values())
        return self._try(small, outcome, shared[:SINGLES])

    def _try(
        self, small: nn.Module, outcome: _Outcome, candidates: Sequence[Sequence[Patch]]
    ) -> bool:
        """Keep the first candidate that lets the run get further."""
        for chosen in candidates:
            if self.runs >= TRIALS:
                return False
            patches = self._alike(small, chosen)
            with self._applied(small, patches):
                if self._run(small).beyond(outcome):
                    self.patches += patches
                    return True
        return False

    def _proposals(self, small: nn.Module, name: str) -> list[Patch]:
        """Numbers of a module that equal a size nearby that has changed."""
        if name not in self._proposed:
            self._proposed[name] = self._look_for_proposals(small, name)
        return self._proposed[name]

    def _look_for_proposals(self, small: nn.Module, name: str) -> list[Patch]:
        known = {(p.module, p.attribute, p.place) for p in self.patches}
        module = small.get_submodule(name)
        own = [n for n in numbers(module) if (name, *n[:2]) not in known]
        parts = name.split(".") if name else []
        found: list[Patch] = []
        for level in range(len(parts), max(-1, len(parts) - LEVELS), -1):
            sources = self._sources(".".join(parts[:level]))
            near = [
                replace(source, module=name, attribute=attribute, place=place, value=value)
                for attribute, place, value in own
                for source in sources.get(value, ())
            ]
            told = {(p.attribute, p.place) for p in found}
            found += [p for p in near if (p.attribute, p.place) not in told]
        return sorted(found, key=self._by_its_name)

    def _by_its_name(self, patch: Patch) -> bool:
        """Whether a number is called that of something else, where sizes do not tell which.

        Of 8 heads of 8 channels ``num_heads`` is hardly the channels, nor ``head_dim`` the heads.
        """
        counts = bool(COUNTS.search(patch.attribute))
        return patch.clique in (self._inside if counts else self._around)

    def _sources(self, prefix: str) -> dict[int, list[Patch]]:
        """Old size to what has it: changed dimensions of weights below a module, and cliques."""
        if prefix not in self._sourced:
            self._sourced[prefix] = self._look_for_sources(prefix)
        return self._sourced[prefix]

    def _look_for_sources(self, prefix: str) -> dict[int, list[Patch]]:
        found: dict[int, dict[tuple[str, str, int], Patch]] = {}

        def add(value: int, patch: Patch) -> None:
            found.setdefault(value, {})[(patch.clique, patch.weight, patch.dim)] = patch

        for name, shape in self.trace.shapes.items():
            if name.startswith(prefix):
                for dim, (old, new) in enumerate(zip(shape, self._shapes[name], strict=True)):
                    if old != new:
                        add(old, Patch("", "", None, old, weight=name, dim=dim))
        for clique in self.active.values():
            for member in (*clique.members, *clique.constants):
                if member.weight.startswith(prefix):
                    patch = Patch("", "", None, 0, clique=clique.name)
                    add(clique.channels, patch)
                    add(member.positions.size, patch)
                    add(clique.channels * member.repeat, patch)
                    for rows in self._rows_at[member.weight]:
                        if rows % clique.channels == 0:
                            add(rows, patch)
        return {value: list(patches.values()) for value, patches in found.items()}

    def _alike(self, small: nn.Module, chosen: Sequence[Patch]) -> list[Patch]:
        """The same patches for every module of the class where the same things are equal."""
        found = []
        for patch in chosen:
            kind = type(small.get_submodule(patch.module))
            found.append(patch)
            for name, module in small.named_modules():
                if type(module) is kind and name != patch.module:
                    key = self._pattern(patch)
                    near = self._proposals(small, name)
                    found += [p for p in near if self._pattern(p) == key][:1]
        return found

    def _pattern(self, patch: Patch) -> tuple[Any, ...]:
        """What patches of different modules have in common: names up to their numbers."""
        weight, clique = (re.sub(r"\d+", "#", name) for name in (patch.weight, patch.clique))
        times = patch.value / self.active[patch.clique].channels if patch.clique else 1.0
        return patch.attribute, patch.place, weight, patch.dim, clique, times

    @contextmanager
    def _applied(self, small: nn.Module, patches: Sequence[Patch]) -> Iterator[None]:
        apply_patches(small, self.trace, self._built, self._shapes, patches)
        try:
            yield
        finally:
            for patch in reversed(patches):
                module = small.get_submodule(patch.module)
                set_number(module, patch.attribute, patch.place, patch.value)

    def _hold(self, fresh: Sequence[str], outcome: _Outcome) -> Sequence[str]:
        """Hold the cliques around the module that failed, as few as let the run get further.

        No sets of names: their order changes from one process to the next, and what is tried first
        decides what is held.
        """
        where = outcome.stack[-1] if outcome.stack else ""
        groups: dict[str, list[str]] = {}
        for name in reversed(("", *outcome.stack)):
            around = [n for n in fresh if self._touches(self.active[n], name)]
            if around:
                for clique in sorted(
                    around, key=lambda n: self.trace.parameters_in(self.active[n])
                ):
                    groups.setdefault(re.sub(r"\d+", "#", clique), []).append(clique)
                break
        reason = (
            f"its size is fixed in the forward pass of {where or 'the network'}: {outcome.error}"
        )
        kinds = list(groups)
        tried = [[kind] for kind in kinds] + [kinds[:n] for n in range(2, len(kinds))]
        for some in tried:
            if self.runs >= TRIALS:
                break
            alike = [n for n in fresh if re.sub(r"\d+", "#", n) in some]
            kept = {n: self.active.pop(n) for n in alike}
            if self._run(self._build(self._sizes())).beyond(outcome):
                self.held |= dict.fromkeys(kept, reason)
                return alike
            self.active |= kept
        alike = [n for n in fresh if re.sub(r"\d+", "#", n) in groups]
        dropped = alike or fresh
        for name in dropped:
            self.active.pop(name)
        self.held |= dict.fromkeys(dropped, reason)
        return dropped

    def _touches(self, clique: Clique, prefix: str) -> bool:
        start = f"{prefix}." if prefix else ""
        return any(m.weight.startswith(start) for m in (*clique.members, *clique.constants))


def runs_at(base: nn.Module, trace: Trace, inputs: Inputs, widths: Iterable[float]) -> bool:
    """Whether a network runs at these widths, with all changed that its trace says can change."""
    search = Search(base, trace, inputs, 0)
    search.active = {c.name: c for c in trace.cliques if not c.held}
    return all(search.runs_with(dict.fromkeys(search.active, w)) for w in widths)


class _Counter(FastShapes):
    """Counts operators."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self.steps += 1
        return out
