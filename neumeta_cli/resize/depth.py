"""Runs of like blocks, and networks without some of their blocks."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from neumeta_cli.checkpoint import first_line
from neumeta_cli.errors import NeumetaError
from neumeta_cli.resize.follow import what_follows
from neumeta_cli.trace import FastShapes, Inputs, Operator, Trace, meta_inputs, on_meta

ADDING = ("add", "add_")
SAME_VALUES = ("view", "_unsafe_view", "permute", "transpose", "clone", "alias", "unsqueeze")
MOST_DEPTH = 4  # times as many blocks as the checkpoint has
UNLIKE = "no block gives one tensor of the shape that it is given"
Shape = tuple[int, ...]
LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class PassOn(nn.Module):
    """Stands where a block was, and gives the block's first argument on.

    So the places of the blocks after it stay as they are, and with them the names of their weights,
    the numbers that a forward pass counts blocks by, and the features that it takes out.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the first argument, whatever else the block took."""
        return _first(args, kwargs)


@dataclass(frozen=True)
class Run:
    """Blocks of one class in a row.

    A stage of a ResNet is one: its first block changes the size of images and has to stay, the
    others add to what they are given, and can go.

    Attributes:
        name: of the module that holds them.
        blocks: names of all of them, in order.
        removable: of those without which the network runs and gives outputs of the same shape.
        residual: whether each of these adds to what it is given, which is what makes a network
            likely to do without it.
        held: why none can go; empty if some can.
        follows: what hangs on its blocks, and what becomes of it; see ``what_follows``.

    """

    name: str
    blocks: tuple[str, ...]
    removable: tuple[str, ...] = ()
    residual: bool = False
    held: str = ""
    follows: tuple[str, ...] = ()

    @property
    def fewest(self) -> int:
        """Blocks that have to stay."""
        return max(1, len(self.blocks) - len(self.removable))

    @property
    def most(self) -> int:
        """Blocks that it can have: copies of one that adds change nothing at first."""
        return (
            MOST_DEPTH * len(self.blocks) if self.residual and self.removable else len(self.blocks)
        )

    @property
    def last(self) -> str:
        """The block that others are added after; empty if none can be."""
        return self.removable[-1] if self.most > len(self.blocks) else ""

    def count(self, depth: float) -> int:
        """How many blocks a depth gives: the nearest number, within what it can have.

        Args:
            depth: blocks over the checkpoint's, above 0.

        """
        return max(self.fewest, min(self.most, round(depth * len(self.blocks))))

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {name: v if type(v) is not tuple else list(v) for name, v in asdict(self).items()}


def find_runs(model: nn.Module, trace: Trace, inputs: Inputs) -> tuple[Run, ...]:
    """Find the runs of a network, in the order of its modules; none lies in another.

    Args:
        model: the network; it is left as it is.
        trace: of it.
        inputs: what it takes.

    """
    small = on_meta(model)
    try:
        seen = _Seen(small, trace, inputs)
    except Exception:  # it was traced with some of its operators replaced, and cannot change
        return ()
    runs = list(_runs_below(small, "", seen))
    fault = _fault(small, [b for run in runs for b in _most(run)], trace, inputs)
    if fault:
        alone = [_fault(small, _most(run), trace, inputs) for run in runs]
        runs = [
            replace(run, removable=(), held=f"without some of its blocks: {why}") if why else run
            for run, why in zip(runs, alone, strict=True)
        ]
    return tuple(
        replace(run, follows=what_follows(model, run.blocks, seen.given_more)) for run in runs
    )


def without_blocks(network: nn.Module, blocks: Collection[str]) -> nn.Module:
    """Take blocks out of a network, in place; at any width.

    Raises:
        ValueError: it has no such module.

    """
    for name in blocks:
        try:
            network.get_submodule(name)
        except AttributeError as error:
            raise ValueError(f"there is no block {name}") from error
        network.set_submodule(name, PassOn())
    return network


def added_blocks(runs: Sequence[Run], counts: Mapping[str, int]) -> dict[str, int]:
    """How many copies follow a block, by its name.

    Args:
        runs: of the network.
        counts: of the blocks that each run is to have, by its name; others stay as they are.

    """
    more = {run.last: counts.get(run.name, 0) - len(run.blocks) for run in runs}
    return {block: count for block, count in more.items() if block and count > 0}


def check_depth(runs: Sequence[Run], counts: Mapping[str, int]) -> None:
    """Refuse numbers of blocks that a network cannot have.

    Raises:
        NeumetaError: names the run, and what it can have.

    """
    by_name = {run.name: run for run in runs}
    for name, count in counts.items():
        run = by_name.get(name)
        if run is None:
            known = ", ".join(run.name for run in runs) or "none"
            raise NeumetaError(f"--depth {name}={count}: no run of blocks has this name ({known})")
        if not run.fewest <= count <= run.most:
            why = f": {run.held}" if run.held else ""
            raise NeumetaError(
                f"--depth {name}={count}: {name} can have {run.fewest} to {run.most} blocks{why}"
            )


def _most(run: Run) -> tuple[str, ...]:
    """As many blocks as can go at once."""
    return run.removable[len(run.removable) - (len(run.blocks) - run.fewest) :]


def _runs_below(
    model: nn.Module, name: str, seen: "_Seen", residual_only: bool = False
) -> Iterator[Run]:
    """The runs among the children of a module, and in those that are in no run.

    Where children in a row are of one class and are not residual (stages, say), the runs inside
    them count, if there are any. In a module that adds, such as a block with a shortcut, layers in
    a row are no run, but blocks with shortcuts of their own are.
    """
    for row in _rows(model, name):
        able = tuple(block for block in row if block in seen.passing)
        residual = bool(able) and seen.residual.issuperset(able)
        run = Run(name or "the network", tuple(row), able, residual)
        if len(row) > 1 and residual:
            yield run
            continue
        inside = [
            found
            for block in row
            for found in _runs_below(model, block, seen, residual_only or block in seen.adding)
        ]
        if inside or len(row) == 1 or residual_only:
            yield from inside
        else:
            yield run if able else replace(run, held=UNLIKE)


def _rows(model: nn.Module, name: str) -> list[list[str]]:
    """The children of a module in rows of one class; such as are no blocks, each alone."""
    rows: list[list[str]] = []
    before = None
    for key, child in model.get_submodule(name).named_children():
        if type(child) is not before or not _is_block(child):
            rows.append([])
        rows[-1].append(f"{name}.{key}" if name else key)
        before = type(child)
    return rows


def _is_block(module: nn.Module) -> bool:
    """Whether it is made of several modules, and not only a list of them."""
    return any(True for _ in module.children()) and not isinstance(module, LISTS)


class _Seen:
    """What one forward pass shows of the blocks of a network.

    Attributes:
        passing: names of those that run once, and give back a tensor like their first argument.
        adding: that add something to something.
        residual: that add what they were given, as it was.
        given_more: that are given tensors beside their first argument.

    """

    def __init__(self, small: nn.Module, trace: Trace, inputs: Inputs) -> None:
        calls: dict[str, list[bool]] = {}
        self.given_more: set[str] = set()

        def look(name: str) -> Callable[..., None]:
            def note(_: nn.Module, args: Any, kwargs: Any, made: Any) -> None:
                calls.setdefault(name, []).append(_alike(_first(args, kwargs), made))
                given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
                if len(given) > 1:
                    self.given_more.add(name)

            return note

        with ExitStack() as hooks:
            for name, module in small.named_modules():
                if name and _is_block(module):
                    hooks.callback(
                        module.register_forward_hook(look(name), with_kwargs=True).remove
                    )
            _outputs(small, inputs)
        self.passing = {name for name, alike in calls.items() if alike == [True]}
        added = [o for o in trace.operators if o.op in ADDING and not o.weights]
        self.adding = {operator.module for operator in added}
        self.residual = {o.module for o in added if _from_outside(o, o.module, trace.operators)}


def _first(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return next(iter((*args, *kwargs.values())), None)


def _alike(given: Any, made: Any) -> bool:
    tensors = isinstance(given, Tensor) and isinstance(made, Tensor)
    return tensors and (given.shape, given.dtype) == (made.shape, made.dtype)


def _from_outside(operator: Operator, module: str, operators: Sequence[Operator]) -> bool:
    """Whether an operator in a module reads what the module was given, or the same in shape."""
    for above in (operators[number] for number in operator.after):
        if above.module != module and not above.module.startswith(f"{module}."):
            return True
        same = above.op in SAME_VALUES and not above.weights
        if same and _from_outside(above, module, operators):
            return True
    return False


def _fault(small: nn.Module, blocks: Collection[str], trace: Trace, inputs: Inputs) -> str:
    """Why the network does not run without these blocks, empty if it does."""
    before = {name: small.get_submodule(name) for name in blocks}
    try:
        without_blocks(small, blocks)
        made = _outputs(small, inputs)
    except Exception as error:  # whatever a user's forward raises
        return first_line(error)
    finally:
        for name, block in before.items():
            small.set_submodule(name, block)
    return "" if made == list(trace.output_shapes) else "outputs have other shapes"


def _outputs(small: nn.Module, inputs: Inputs) -> list[Shape]:
    args, kwargs = meta_inputs(small, inputs)
    with torch.no_grad(), torch.device("meta"), FastShapes():
        output = small(*args, **kwargs)
    return [tuple(t.shape) for t in tree_leaves(output) if isinstance(t, Tensor)]
