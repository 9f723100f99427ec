"""``--depth``: networks with fewer blocks, or more."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from neumeta_cli.cli.console import note
from neumeta_cli.cli.options import parse_width
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Reporter, counted

if TYPE_CHECKING:
    from neumeta_cli.export import Finish, Order
    from neumeta_cli.manifold import Manifold
    from neumeta_cli.resize import Run
    from neumeta_cli.tasks import Task

AUTO = "auto"

DepthOption = Annotated[
    list[str] | None,
    typer.Option(
        "--depth",
        metavar="D|RUN=N|auto",
        help="Blocks of every run over the checkpoint's (neumeta trace lists the runs); RUN=N "
        "gives one of them N (layer3=1); several with commas. Above 1, blocks are added: those "
        "that the fit trained (fit.depths above 1), else copies that change nothing until they are "
        "trained. Below, for fits that trained depth (fit.depths, which an automatic recipe has); "
        "of others, fine-tune networks that lack more than a block. auto (export): as many as "
        "serve a budget best, by one half of the test images; the result is measured on the other "
        "half.",
    ),
]


def parse_depth(given: Sequence[str], runs: "Sequence[Run]") -> dict[str, int]:
    """How many blocks each run is to have, for those that are to change.

    Raises:
        NeumetaError: it cannot be read, or the network cannot have it.

    """
    from neumeta_cli.resize import check_depth

    named: dict[str, int] = {}
    bare: list[float] = []
    for text in (part for one in given for part in one.split(",")):
        name, equals, number = text.strip().rpartition("=")
        if not equals:
            bare.append(_share(text))
        elif not number.strip().isdecimal():
            raise NeumetaError(f"--depth {text}: write it as RUN=N, such as layer3=1")
        else:
            named[name.strip()] = int(number)
    if len(bare) > 1:
        raise NeumetaError("--depth was given twice without a run; write it as layer3=1")
    check_depth(runs, named)
    if bare and not any(run.removable for run in runs):
        why = (
            "; ".join(f"{run.name}: {run.held}" for run in runs) or "it has no like blocks in a row"
        )
        raise NeumetaError(f"--depth {bare[0]:g}: no block of this network can go ({why})")
    counts = {run.name: run.count(bare[0]) for run in runs} if bare else {}
    counts |= named
    whole = {run.name: len(run.blocks) for run in runs}
    return {name: count for name, count in counts.items() if count != whole[name]}


def shorten(manifold: "Manifold", given: Sequence[str], reporter: Reporter) -> "Manifold":
    """The manifold whose networks have so many blocks; says which ones they lack, or have twice."""
    from neumeta_cli.export.choose.depth import blocks_to_drop
    from neumeta_cli.resize import added_blocks

    runs = manifold.frame.runs
    asked = parse_depth(given, runs)
    sizes = {run.name: len(run.blocks) for run in runs}
    counts = {name: count for name, count in asked.items() if count < sizes[name]}
    added = added_blocks(runs, asked)
    if added:
        learnt = {name: n for name, n in manifold.inr.learnt.items() if name in added}
        manifold = manifold.longer(added)
        told = ", ".join(f"{count} after {name}" for name, count in added.items())
        what = "copies that change nothing until they are trained"
        if all(learnt.get(name, 0) >= count for name, count in added.items()):
            what = "which the fit trained"
        elif learnt:
            most = ", ".join(f"{count} after {name}" for name, count in learnt.items())
            what = f"of which the fit trained {most}; the others change nothing"
        note(f"depth: {told} added, {what}")
    if not counts:
        return manifold
    dropped = blocks_to_drop(manifold, counts, reporter)
    images = "calibration images" if len(manifold.calibration) else "noise, for want of images"
    why = f"outputs change least, judged by {images}"
    if manifold.inr.depths.blocks:
        why = "the order of the fit, which trained depth"
    whole = sum(sizes.values())
    note(
        f"depth: {whole - len(dropped)} of {counted(whole, 'block')}, without {', '.join(dropped)} "
        f"({why})"
    )
    return manifold.without(dropped)


def shorten_within(
    manifold: "Manifold", order: "Order", task: "Task", finish: "Finish", reporter: Reporter
) -> "tuple[Manifold, Order, Task]":
    """The manifold without as many blocks as serve a budget best, what is left to do, and on what.

    A search for widths begins there, and moves on in both; it halves the images as this does. With
    none, the other images judge.
    """
    import torch

    from neumeta_cli.export.choose.depth import best_depth
    from neumeta_cli.export.choose.search import halves
    from neumeta_cli.export.precision import check_dtype

    if not any(run.removable for run in manifold.frame.runs):
        raise NeumetaError("--depth auto: no block of this network can go; see neumeta trace")
    scale = check_dtype(finish.dtype).itemsize / torch.float32.itemsize
    best, going, tried = best_depth(manifold, order, task, scale, reporter)
    metric, (choosing, judging) = task.metrics[0], halves(task, order.seed)
    told = ", ".join(
        f"{n}: {'too large' if value is None else metric.show(value)}"
        for n, value in enumerate(tried)
    )
    gone = ", ".join(best.frame.dropped) or "no block"
    note(
        f"depth: {metric.name} by how many blocks are left out, within the budget, on "
        f"{counted(len(choosing.test), 'image')}: {told}; without {gone}"
    )
    if order.search:
        depths = tuple(going[:count] for count in range(len(going) + 1))
        return best, replace(order, depths=depths), task
    return best, order, judging


def _share(text: str) -> float:
    from neumeta_cli.resize.depth import MOST_DEPTH

    depth = parse_width(text, force=True)
    if not 0 < depth <= MOST_DEPTH:
        raise NeumetaError(
            f"--depth {text.strip()}: give a fraction of the blocks, above 0 and at most "
            f"{MOST_DEPTH}, or RUN=N"
        )
    return depth
