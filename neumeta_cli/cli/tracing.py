"""``neumeta trace``."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neumeta_cli.checkpoint import SUFFIXES, require_there, suffix_of
from neumeta_cli.cli.completing import complete_arch
from neumeta_cli.cli.console import TerminalReporter, escape, note, say, table, write_json
from neumeta_cli.cli.gains import tell_next
from neumeta_cli.cli.options import (
    ArchOption,
    InputSizeOption,
    Json,
    WeightsKeyOption,
    parse_inputs,
)
from neumeta_cli.reporting import counted

if TYPE_CHECKING:
    from neumeta_cli.checkpoint import Checkpoint
    from neumeta_cli.resize import Run
    from neumeta_cli.trace import Clique, Trace

SHOWN_MEMBERS = 1
PLACES = "a block that goes leaves its place: the others keep their numbers and names"
SHOWN_NAMES = 3  # of cliques that are held for the same reason
SHOWN_OTHERS = 6  # architectures that fit as well
COLUMNS = ("clique", "channels", "weights", "can shrink", "what is tied")


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
    collapse: Annotated[
        bool,
        typer.Option("--collapse", help="Show blocks that are alike once, with their number."),
    ] = False,
) -> None:
    """Show which dimensions of which weights are tied together.

    Runs the network once on meta tensors. A clique is a set of dimensions that must share one
    channel order and one width. --json has all of its dimensions. Blocks that are alike and follow
    one another are listed too, with how many of them a network can have.

    Example: neumeta trace resnet18.pth --plot graph.svg --collapse
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
    frame = open_frame(model, inputs)
    traced, runs = frame.trace, frame.runs
    if plot is not None:
        from neumeta_cli.evaluate import plot_graph

        plot_graph(traced, plot, collapse)
    write_json(
        json,
        {"arch": name, "input_size": describe(inputs), **told, **traced.as_dict()}
        | {"runs": [run.as_dict() for run in runs]},
    )
    if json != "-":
        say(_cliques_table(name, traced, collapse))
        for line in _remarks(traced):
            say(escape(line))
        for line in _told_runs(runs):
            say(escape(line))
    if told:
        chosen = ["--checkpoint", target, *(["--arch", arch] if arch is not None else [])]
        chosen += ["--input-size", *input_size] if input_size and len(input_size) == 1 else []
        tell_next(json, "fit", *chosen, "--data", "DIR")


def _cliques_table(name: str, traced: "Trace", collapse: bool) -> object:
    rows: dict[object, list[list[str]]] = {}
    for clique in traced.cliques:
        channels = str(clique.channels)
        if clique.copies > 1:
            channels = f"{clique.copies}×{channels}"
        weights = f"{traced.parameters_in(clique):,}"
        row = [clique.name, channels, weights, _can_shrink(clique), _tied(clique)]
        kind = re.sub(r"\d+", "#", clique.name) if collapse else clique.name
        rows.setdefault((kind, *row[1:4], len(clique.members)), []).append(row)
    shown = [
        [f"{first[0]}  ×{1 + len(others)}" if others else first[0], *first[1:]]
        for first, *others in rows.values()
    ]
    count = counted(len(traced.cliques), "clique")
    title = f"{name}: {count}, {traced.share_governed():.1%} of weights"
    made = table(title, COLUMNS, shown)
    *_, shrinks, tied = made.columns
    shrinks.justify = tied.justify = "left"
    return made


def _can_shrink(clique: "Clique") -> str:
    if clique.order_only and clique.held.startswith("only"):
        return "order only"
    return "no" if clique.held else "yes"


def _tied(clique: "Clique") -> str:
    names = ", ".join(map(str, clique.members[:SHOWN_MEMBERS]))
    more = len(clique.members) - SHOWN_MEMBERS
    return f"{names} and {more:,} more" if more > 0 else names


def _remarks(traced: "Trace") -> list[str]:
    """What the table has no room for: why something is held, and what else follows the widths."""
    alike: dict[str, list[Clique]] = {}  # but for the numbers of blocks
    for clique in traced.cliques:
        if clique.held:
            alike.setdefault(re.sub(r"\d+", "#", clique.held), []).append(clique)
    lines = [f"{_some([c.name for c in held])}: {held[0].held}" for held in alike.values()]
    for refusal in traced.refusals:
        lines.append(
            f"fixed by {refusal.op} in {refusal.module or 'the network'}: {refusal.reason}"
        )
    if traced.patches:
        names = sorted({patch.attribute for patch in traced.patches})
        count = counted(len(traced.patches), "number")
        lines.append(f"{count} in modules follow the widths: {', '.join(names)}")
    return lines


def _told_runs(runs: "Sequence[Run]") -> list[str]:
    """How many blocks of each run ``export --depth`` can leave, and why it can change no other."""
    able = [run for run in runs if not run.held]
    told = [f"{run.name} {run.fewest} to {len(run.blocks)}" for run in able]
    lines = [f"blocks (export --depth): {', '.join(told)}", PLACES] if told else []
    plain = [run.name for run in able if not run.residual]
    if plain:
        lines.append(f"{_some(plain)}: blocks do not add to what they are given; few can be spared")
    follows: dict[str, list[str]] = {}
    for run in able:
        for line in run.follows:
            follows.setdefault(line, []).append(run.name)
    lines += [f"{_some(names)}: {line}" for line, names in follows.items()]
    held: dict[str, list[str]] = {}
    for run in runs:
        if run.held:
            held.setdefault(run.held, []).append(run.name)
    return [*lines, *(f"{_some(names)}: all blocks stay: {why}" for why, names in held.items())]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
