"""Networks with more blocks than their checkpoint, which change nothing until they are trained."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neumeta_cli.checkpoint import STATISTICS
from neumeta_cli.resize.depth import ADDING, SAME_VALUES
from neumeta_cli.trace import Operator

ADDED = "added"  # what a block holds those that follow it under


def add_blocks(network: nn.Module, added: Mapping[str, int]) -> nn.Module:
    """Let copies of blocks follow them, in place.

    A block runs those that follow it itself, so that names and places of all others stay.

    Args:
        network: at any width.
        added: how many copies, by the block's name.

    Raises:
        ValueError: it has no such module, or this has something else of the name of its copies.

    """
    for name, count in added.items():
        try:
            block = network.get_submodule(name)
        except AttributeError as error:
            raise ValueError(f"there is no block {name}") from error
        if hasattr(block, ADDED):
            raise ValueError(f"{name} has something called {ADDED} already")
        copies = [copy.deepcopy(block) for _ in range(count)]
        block.register_module(ADDED, nn.ModuleList(copies))
        block.register_forward_hook(_follow, with_kwargs=True)
    return network


def _follow(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any) -> Any:
    """What the blocks after a block make of its output; they are given what else it was given."""
    for following in block.added:
        named = dict(kwargs)
        if not args:
            named.pop(next(iter(named)))
        made = following(made, *args[1:], **named)
    return made


def added_names(name: str, added: Mapping[str, int]) -> list[str]:
    """What a module or weight of a block is called in its copies; copies have none themselves."""
    for block, count in added.items():
        if name.startswith(f"{block}.") and not name.startswith(f"{block}.{ADDED}."):
            rest = name.removeprefix(f"{block}.")
            return [f"{block}.{ADDED}.{number}.{rest}" for number in range(count)]
    return []


def name_in_block(name: str) -> str:
    """The reverse: what something in a copy of a block is called in the block.

    >>> name_in_block("layer1.2.added.0.conv1.weight")
    'layer1.2.conv1.weight'
    """
    return re.sub(rf"\.{ADDED}\.\d+(?=\.|$)", "", name)


def added_weights(
    tensors: Mapping[str, Tensor], added: Mapping[str, int], operators: Sequence[Operator]
) -> dict[str, Tensor]:
    """Weights of copies of blocks: the block's own, and zeros where what it adds is made.

    Args:
        tensors: the network's, at any width.
        added: see ``add_blocks``.
        operators: of the network's trace.

    Raises:
        ValueError: nothing shows which weights make what a block adds.

    """
    by_block = {block: silent_weights(operators, block) for block in added}
    for block, names in by_block.items():
        if not names:
            raise ValueError(f"nothing shows what {block} adds to what it is given")
    silent = {name for names in by_block.values() for name in names}
    return {
        own: torch.zeros_like(tensor) if name in silent else tensor.clone()
        for name, tensor in tensors.items()
        for own in added_names(name, added)
    }


def silent_weights(operators: Sequence[Operator], block: str) -> set[str]:
    """The weights without which a residual block gives what it is given.

    Those of the last layer before each sum of a branch and what the block was given, or what the
    sum before this one gave; statistics of norms are none. Empty if it has no such sum.
    """
    inside = {
        number
        for number, o in enumerate(operators)
        if o.module == block or o.module.startswith(f"{block}.")
    }
    sums: set[int] = set()
    found: set[str] = set()
    for number in sorted(inside):
        operator = operators[number]
        if operator.op not in ADDING or operator.weights or len(operator.after) != 2:
            continue
        passed = [_passes(operators, above, inside, sums) for above in operator.after]
        if passed.count(True) == 1:
            sums.add(number)
            branch = operator.after[passed.index(False)]
            found.update(_last_weights(operators, branch, inside))
    return {name for name in found if name.rpartition(".")[2] not in STATISTICS}


def _passes(operators: Sequence[Operator], at: int, inside: set[int], sums: set[int]) -> bool:
    """Whether a result is what the block was given, or a sum with it, the same in all values."""
    while at in inside and at not in sums:
        operator = operators[at]
        if operator.weights or operator.op not in SAME_VALUES or len(operator.after) != 1:
            return False
        (at,) = operator.after
    return True


def _last_weights(operators: Sequence[Operator], at: int, inside: set[int]) -> Iterator[str]:
    """The weights of the last layer on each way to a result."""
    operator = operators[at]
    views = [
        operators[n] for n in operator.after if operators[n].weights and not operators[n].after
    ]
    own = [*operator.weights, *(name for view in views for name in view.weights)]
    yield from own
    if own or at not in inside:
        return
    for above in operator.after:
        if above in inside:
            yield from _last_weights(operators, above, inside)
