"""``neumeta permute``."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neumeta_cli.checkpoint import require_there, suffix_of
from neumeta_cli.choices import Norm, Weighting
from neumeta_cli.cli.console import TerminalReporter, escape, note, say, table, write_json
from neumeta_cli.cli.gains import tell_next
from neumeta_cli.cli.options import (
    ArchOption,
    CheckpointArgument,
    InputSizeOption,
    Json,
    Overwrite,
    Seed,
    WeightsKeyOption,
    keep_what_is_there,
    parse_inputs,
)
from neumeta_cli.cli.tracing import tell_arch
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import counted

if TYPE_CHECKING:
    from neumeta_cli.permute import CliqueOrder
    from neumeta_cli.trace import Trace


def permute(
    checkpoint: CheckpointArgument,
    arch: ArchOption = None,
    weights_key: WeightsKeyOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File to write. Default: NAME.permuted.pth in this folder."
        ),
    ] = None,
    overwrite: Overwrite = False,
    solver: Annotated[
        str,
        typer.Option(
            help="How to solve: 2.5-opt, greedy, identity, random, python-tsp or "
            "python-tsp:HEURISTIC "
            "(local_search, simulated_annealing, lin_kernighan, record_to_record; exact for tiny "
            "cliques: brute_force, dynamic_programming, branch_and_bound)."
        ),
    ] = "2.5-opt",
    time_limit: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.0, help="Most time to solve one clique."),
    ] = None,
    norm: Annotated[
        Norm, typer.Option(help="Norm of the difference of two channels within a weight.")
    ] = "l1",
    weighting: Annotated[
        Weighting,
        typer.Option(
            help="How much each weight counts. none: as it is, as in the paper; equal: all the "
            "same; producer: only the one that makes the channels."
        ),
    ] = "none",
    input_size: InputSizeOption = None,
    seed: Seed = 0,
    json: Json = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the last convolution before and after."),
    ] = None,
) -> None:
    """Reorder channels so that weights vary smoothly along them.

    The function stays the same. Every clique gets the shortest Hamiltonian path through its
    channels under the L1 distance between their weights. Blocks, such as attention heads, are
    ordered once the channels in them have their places.

    Example: neumeta permute resnet18.pth -o resnet18.permuted.safetensors
    """
    require_there(checkpoint)
    target = output or _permuted_name(checkpoint)
    keep_what_is_there(target, overwrite)
    from neumeta_cli.checkpoint import load_checkpoint
    from neumeta_cli.permute import Objective, Ordering, permute_checkpoint
    from neumeta_cli.pipeline import write_permuted
    from neumeta_cli.resize import open_frame

    reporter = TerminalReporter()
    loaded = load_checkpoint(checkpoint, arch, reporter=reporter, weights_key=weights_key)
    tell_arch(loaded)
    inputs = parse_inputs(input_size) or loaded.input_size
    known = False
    match parse_inputs(input_size):
        case (int(channels), int(height), int(width)):
            loaded, known = replace(loaded, input_size=(channels, height, width)), True
    traced = open_frame(loaded.model, inputs).trace
    ordering = Ordering(solver, seed, time_limit, Objective(norm, weighting))
    for refusal in traced.refusals:
        note(f"held: {refusal.op} in {refusal.module or 'the network'}: {refusal.reason}")
    start = time.perf_counter()
    found = permute_checkpoint(loaded, traced, ordering, reporter, inputs)
    orders, error = found.orders, found.error
    seconds = time.perf_counter() - start
    write_permuted(target, loaded, found.weights, size_known=known)
    if plot is not None:
        from neumeta_cli.evaluate import plot_permutation

        name = _last_matrix(traced)
        both = (loaded.model, found.model)
        pair = [m.state_dict()[name].flatten(2).mean(2).numpy() for m in both]
        plot_permutation(pair[0], pair[1], plot, name)
    document = {
        "output": str(target),
        "arch": loaded.arch.name,
        "source": loaded.source(),
        "solver": solver,
        "seed": seed,
        "norm": norm,
        "weighting": weighting,
        "relative_error": error,
        "seconds": round(seconds, 3),
        "cliques": [_order_as_dict(o) for o in orders],
    }
    write_json(json, document)
    if json != "-":
        say(_order_table(orders))
        count = counted(len(orders), "clique")
        say(f"{count} in {seconds:.1f} s (the table's seconds are of one core each)")
        say(f"same function: relative difference {error:.1e} in float64")
        say(f"written: {escape(str(target))}")
    chosen = [] if suffix_of(target) == ".safetensors" else ["--arch", loaded.arch.name]
    tell_next(json, "distill", target, *chosen, "--data", "DIR")


def _permuted_name(checkpoint: Path) -> Path:
    """``net.permuted.pth.tar`` for ``net.pth.tar``, here: its own folder may be others' too."""
    *stem, last = checkpoint.name.split(".")
    ending = [last]
    if last.lower() == "tar" and len(stem) > 1:
        ending.insert(0, stem.pop())
    return Path(".".join([*stem, "permuted", *ending]))


def _order_table(orders: "list[CliqueOrder]") -> object:
    rows = [
        [
            o.clique,
            str(len(o.order)),
            str(o.members),
            f"{o.before:,.1f}",
            f"{o.after:,.1f}",
            _change(o.before, o.after),
            f"{o.seconds:.2f}",
        ]
        for o in orders
    ]
    before, after = sum(o.before for o in orders), sum(o.after for o in orders)
    seconds = f"{sum(o.seconds for o in orders):.2f}"
    rows.append(["all", "", "", f"{before:,.1f}", f"{after:,.1f}", _change(before, after), seconds])
    columns = ["clique", "channels", "members", "TV before", "after", "change", "seconds"]
    return table("total variation", columns, rows)


def _change(before: float, after: float) -> str:
    return f"{after / before - 1:+.2%}" if before else "–"


def _order_as_dict(order: "CliqueOrder") -> dict[str, object]:
    return {
        "clique": order.clique,
        "channels": len(order.order),
        "members": order.members,
        "tv_before": order.before,
        "tv_after": order.after,
        "seconds": order.seconds,
        "order": order.order.tolist(),
    }


def _last_matrix(traced: "Trace") -> str:
    """The last weight with a permuted output dimension."""
    names = [
        m.weight
        for clique in traced.cliques
        for m in clique.members
        if m.dim == 0 and len(traced.shapes[m.weight]) > 1
    ]
    if not names:
        raise NeumetaError("there is no permuted weight matrix to draw")
    return names[-1]
