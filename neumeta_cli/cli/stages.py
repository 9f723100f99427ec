"""``neumeta trace`` and ``neumeta permute``."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neumeta_cli.checkpoint import SUFFIXES, require_there, suffix_of
from neumeta_cli.choices import Norm, Weighting
from neumeta_cli.cli.completing import complete_arch
from neumeta_cli.cli.console import TerminalReporter, escape, note, say, table, write_json
from neumeta_cli.cli.gains import tell_next
from neumeta_cli.cli.options import (
    ArchOption,
    CheckpointArgument,
    InputSizeOption,
    Json,
    Seed,
    WeightsKeyOption,
    parse_inputs,
)
from neumeta_cli.errors import NeumetaError

if TYPE_CHECKING:
    from neumeta_cli.checkpoint import Checkpoint
    from neumeta_cli.permute import CliqueOrder
    from neumeta_cli.trace import Clique, Trace

SHOWN_MEMBERS = 4
SHOWN_OTHERS = 6  # architectures that fit as well


def tell_arch(checkpoint: "Checkpoint") -> None:
    """Say which architecture a checkpoint was taken for."""
    names = [arch.name for arch in checkpoint.others]
    more = f" and {len(names) - SHOWN_OTHERS} more" if len(names) > SHOWN_OTHERS else ""
    told = f"; {', '.join(names[:SHOWN_OTHERS])}{more} would fit too, --arch chooses"
    note(f"{checkpoint.path}: {checkpoint.arch.name}{told if names else ''}")


def trace(
    target: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|ARCH",
            autocompletion=complete_arch,
            help="Weights file or architecture name.",
        ),
    ],
    arch: ArchOption = None,
    weights_key: WeightsKeyOption = None,
    input_size: InputSizeOption = None,
    json: Json = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the graph as .png or .svg.")
    ] = None,
) -> None:
    """Show which dimensions of which weights are tied together.

    Runs the network once on meta tensors. A clique is a set of dimensions that must share one
    channel order and one width.

    Example: neumeta trace resnet18.pth --plot graph.svg
    """
    is_file = Path(target).exists() or suffix_of(Path(target)) in SUFFIXES
    require_there(Path(target) if is_file else None)
    from neumeta_cli.checkpoint import load_checkpoint, resolve
    from neumeta_cli.resize import open_frame
    from neumeta_cli.trace import describe

    given = parse_inputs(input_size)
    told = {}
    if is_file:
        reporter = TerminalReporter()
        checkpoint = load_checkpoint(Path(target), arch, reporter=reporter, weights_key=weights_key)
        tell_arch(checkpoint)
        told = {"source": checkpoint.source()}
        model, name = checkpoint.model, checkpoint.arch.name
        inputs = given or checkpoint.input_size
    else:
        found = resolve(arch or target)
        model, inputs, name = found.build("cpu"), given or found.default_input_size(), found.name
    traced = open_frame(model, inputs).trace
    if plot is not None:
        from neumeta_cli.evaluate import plot_graph

        plot_graph(traced, plot)
    write_json(json, {"arch": name, "input_size": describe(inputs), **told, **traced.as_dict()})
    if json != "-":
        say(_tree(name, traced))
    if told:
        chosen = ["--checkpoint", target, *(["--arch", arch] if arch is not None else [])]
        tell_next(json, "fit", *chosen, "--data", "DIR")


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
    from neumeta_cli.checkpoint import load_checkpoint
    from neumeta_cli.permute import Objective, Ordering, permute_checkpoint
    from neumeta_cli.pipeline import write_permuted
    from neumeta_cli.resize import open_frame

    reporter = TerminalReporter()
    loaded = load_checkpoint(checkpoint, arch, reporter=reporter, weights_key=weights_key)
    tell_arch(loaded)
    inputs = parse_inputs(input_size) or loaded.input_size
    traced = open_frame(loaded.model, inputs).trace
    ordering = Ordering(solver, seed, time_limit, Objective(norm, weighting))
    for refusal in traced.refusals:
        note(f"held: {refusal.op} in {refusal.module or 'the network'}: {refusal.reason}")
    start = time.perf_counter()
    found = permute_checkpoint(loaded, traced, ordering, reporter, inputs)
    orders, error = found.orders, found.error
    seconds = time.perf_counter() - start
    target = output or _permuted_name(checkpoint)
    write_permuted(target, loaded, found.weights)
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
        say(f"{len(orders)} cliques in {seconds:.1f} s (the table's seconds are of one core each)")
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


def _tree(name: str, traced: "Trace") -> object:
    from rich.tree import Tree

    share = traced.share_governed()
    tree = Tree(
        f"[bold]{escape(name)}[/bold]: {len(traced.cliques)} cliques, {share:.1%} of weights"
    )
    for clique in traced.cliques:
        branch = tree.add(
            f"[cyan]{escape(clique.name)}[/cyan]  {_channels(clique)} channels, "
            f"{len(clique.members)} members, governs {traced.parameters_in(clique):,} weights"
            f"{_held(clique)}"
        )
        for member in clique.members[:SHOWN_MEMBERS]:
            branch.add(escape(str(member)), style="dim")
        if len(clique.members) > SHOWN_MEMBERS:
            branch.add(f"… {len(clique.members) - SHOWN_MEMBERS} more", style="dim")
    for refusal in traced.refusals:
        where = refusal.module or "the network"
        tree.add(f"[red]fixed by {refusal.op} in {escape(where)}: {escape(refusal.reason)}[/red]")
    follows = sorted({p.attribute for p in traced.patches})
    if follows:
        names = escape(", ".join(follows))
        tree.add(f"{len(traced.patches)} numbers in modules follow the widths: {names}")
    return tree


def _channels(clique: "Clique") -> str:
    return f"{clique.copies}×{clique.channels}" if clique.copies > 1 else str(clique.channels)


def _held(clique: "Clique") -> str:
    if clique.order_only and clique.held.startswith("only"):
        return f" [yellow]{escape(clique.held)}[/yellow]"
    return f" [red]held: {escape(clique.held)}[/red]" if clique.held else ""


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
