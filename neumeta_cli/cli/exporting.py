"""``neumeta export``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neumeta_cli.checkpoint import require_there
from neumeta_cli.choices import FAMILY_INDEX, NUMBER_FORMATS, SEARCH_SAMPLES
from neumeta_cli.cli.console import TerminalReporter, escape, note, say, table, write_json
from neumeta_cli.cli.converting import convert
from neumeta_cli.cli.depths import AUTO, DepthOption, shorten, shorten_within
from neumeta_cli.cli.gains import (
    accuracy_line,
    how_much_is_left,
    share_of_parameters,
    tell_next,
)
from neumeta_cli.cli.options import (
    DataOption,
    DataRecipeOption,
    Device,
    Force,
    Json,
    Overwrite,
    Seed,
    TrustCode,
    choose_device,
    keep_what_is_there,
    parse_widths,
)
from neumeta_cli.cli.widths import (
    ChannelsOption,
    MaxLatency,
    MaxMacs,
    MaxParams,
    MaxSize,
    RoundOption,
    SearchOption,
    TargetAccuracy,
    WidthOption,
    parse_budget,
    parse_wish,
    refuse_absurd,
)
from neumeta_cli.errors import NeumetaError
from neumeta_cli.runs import latest_manifold

if TYPE_CHECKING:
    from neumeta_cli.export import Exported, Planned
    from neumeta_cli.export.family import MemberRow
    from neumeta_cli.manifold import Manifold
    from neumeta_cli.tasks import Metric, Task

SamplesOption = Annotated[
    int | None,
    typer.Option(min=0, metavar="K", help="Noisy samples to average (K); 0: one, without noise."),
]

FoldOption = Annotated[
    bool | None,
    typer.Option(
        "--fold/--no-fold",
        help="Fold batch norm into the layers before it. If left out, .onnx and .pt2 are folded, "
        "other files keep what the manifold has.",
    ),
]
CalibrateOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Fit norm statistics to the images of a folder, which need no labels (biases, where "
        "norms were folded before the fit).",
    ),
]
DtypeOption = Annotated[
    str,
    typer.Option(
        metavar="|".join(NUMBER_FORMATS), help="Number format of the network and of its input."
    ),
]


def export(
    manifold: Annotated[
        Path | None,
        typer.Argument(
            metavar="MANIFOLD|NETWORK",
            help="Manifold file, or that of one network, which keeps its width. Default: the "
            "manifold of the run that finished last.",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="File to write: .pt or .safetensors, or .onnx or .pt2, which run without neumeta. "
            "With --widths, a folder.",
        ),
    ] = ...,  # type: ignore[assignment]
    width: WidthOption = None,
    channels: ChannelsOption = None,
    round_to: RoundOption = 1,
    depth: DepthOption = None,
    force: Force = False,
    max_params: MaxParams = None,
    max_macs: MaxMacs = None,
    max_size: MaxSize = None,
    max_latency: MaxLatency = None,
    target_accuracy: TargetAccuracy = None,
    search: SearchOption = False,
    search_samples: Annotated[
        int, typer.Option(min=2, metavar="N", help="Number of networks that a search tries.")
    ] = SEARCH_SAMPLES,
    widths: Annotated[
        str | None,
        typer.Option(
            metavar="W,W,…|FROM:TO:STEP",
            help="Write a family: a network for each width in a folder, and an index of them, "
            f"{FAMILY_INDEX}.",
        ),
    ] = None,
    ending: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="ENDING",
            help="File type of a family's networks, such as pt or onnx.",
        ),
    ] = "pt",
    overwrite: Overwrite = False,
    data: DataOption = None,
    recipe: DataRecipeOption = None,
    fold: FoldOption = None,
    calibrate: CalibrateOption = None,
    dtype: DtypeOption = "float32",
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="The only batch size that an .onnx or .pt2 file takes. Default: any.",
        ),
    ] = None,
    samples: SamplesOption = None,
    device: Device = "cpu",
    seed: Seed = 0,
    json: Json = None,
    trust_code: TrustCode = False,
) -> None:
    """Write a network of any width to disk.

    Give its widths (--width, --channels), or a budget (--max-…; several hold together) for the
    widest network within it, or --target-accuracy for the narrowest network that is accurate
    enough. In Python, neumeta_cli.load reads .pt and .safetensors files. An .onnx or .pt2 file is
    compared with the network in torch before it is kept.

    Example: neumeta export --width 0.5 -o small.onnx --dtype float16

    Example: neumeta export --max-params 100k --max-latency 5ms --search --data cifar10/ -o small.pt

    Example: neumeta export --max-macs 20M --depth auto --data cifar10/ -o small.pt

    Example: neumeta export --widths 1,0.75,0.5,0.25 -o family/

    Example: neumeta export trained.pt -o trained.onnx
    """
    require_there(manifold)
    from neumeta_cli.export import (
        Choice,
        Finish,
        Order,
        accept_float32,
        export_family,
        export_planned,
        kind_of,
    )
    from neumeta_cli.export.programs import PROGRAMS
    from neumeta_cli.manifold import load_manifold

    finish = Finish(fold, calibrate, dtype, batch)
    wish = parse_wish(width, channels, round_to, force)
    budget = parse_budget(max_params, max_macs, max_size, max_latency)
    order = Order(wish, budget, target_accuracy, search_samples if search else None, seed)
    given = wish.everywhere is not None or wish.names_some or order.plans or bool(depth)
    if not given and widths is None:
        if manifold is not None and kind_of(manifold) != "manifold":
            convert(manifold, output, finish, overwrite, json, trust_code)
            return
        raise typer.BadParameter("give --width, --channels, a budget (--max-…) or --widths")
    if widths is not None and (wish.everywhere is not None or order.plans):
        raise typer.BadParameter("--widths goes with patterns and --channels, not with budgets")
    if wish.everywhere is not None and order.plans:
        raise typer.BadParameter("a budget chooses the width; give --width for patterns only")
    if search and target_accuracy is not None:
        raise typer.BadParameter("--search goes with a budget, --target-accuracy has one width")
    auto = depth == [AUTO]
    if (search or auto) and (not budget.limits or (auto and target_accuracy is not None)):
        one = "--search" if search else "--depth auto"
        raise typer.BadParameter(f"{one} needs a budget: --max-params, --max-macs, …")
    family = None if widths is None else parse_widths(widths, force)
    path = manifold or latest_manifold()
    note(f"manifold: {path}")
    if output.resolve() == path.resolve():
        raise NeumetaError(f"{output} is the manifold itself; give another name with -o")
    there = output if family is None else output / FAMILY_INDEX
    keep_what_is_there(there, overwrite)
    loaded = load_manifold(path, trust_code).to(choose_device(device))
    if not force:
        refuse_absurd(Choice(loaded, wish))
    given_data = data is not None or recipe is not None
    needs_data = search or auto or target_accuracy is not None or given_data
    task = _task(loaded, data, recipe, trust_code) if needs_data else None
    reporter = TerminalReporter()
    if task is not None and auto:
        loaded, order, task = shorten_within(loaded, order, task, finish, reporter)
    elif depth:
        loaded = shorten(loaded, depth, reporter)
    choice = Choice(loaded, wish)
    if family is not None:
        measure = None if task is None else task.measure
        members = export_family(
            choice,
            output,
            family,
            "." + ending.removeprefix("."),
            samples,
            finish,
            measure,
            reporter,
        )
        _tell_family(path, output, members, json)
        return
    planned, exported = export_planned(choice, order, output, task, samples, finish, reporter)
    loaded, measured = loaded.without(planned.dropped), planned.metrics
    if task is not None and measured is None:
        measured = task.measure(accept_float32(exported.model))
        planned = replace(planned, judged=len(task.test) if auto else None)
    again = [] if data is None else ["--data", data]
    again += ["--trust-code"] if trust_code and output.suffix not in PROGRAMS else []
    _tell(path, loaded, planned, exported, measured, json, again)


def _task(manifold: "Manifold", data: str | None, recipe: str | None, trust_code: bool) -> "Task":
    from neumeta_cli.cli.adapting import Asked, how_to_read
    from neumeta_cli.data.preprocessing import own_preprocessing, resolved
    from neumeta_cli.tasks import load_task

    reporter, size = TerminalReporter(), manifold.input_size
    own = own_preprocessing(manifold.arch, size)
    asked = Asked(data, recipe=recipe)
    section, kind, by = how_to_read(asked, manifold.provenance.recipe, trust_code)
    section = resolved(section, own, reporter, by)
    full = manifold.sample(1.0, samples=0)
    task = load_task(section, full, size, train=False, reporter=reporter, kind=kind)
    task.require_labels("measuring an export")
    return task


def _tell(
    source: Path,
    manifold: "Manifold",
    planned: "Planned",
    exported: "Exported",
    measured: Mapping[str, float] | None,
    json: str | None,
    again: Sequence[object],
) -> None:
    from neumeta_cli.export.choose.budget import OPTIONS, show_cost
    from neumeta_cli.export.choose.wish import mean_width
    from neumeta_cli.resize import measure_cost
    from neumeta_cli.tasks import metric_named

    cost = measure_cost(exported.model, manifold.input_size)
    mean = mean_width(manifold, exported.sizes)
    width = mean if planned.width is None else planned.width
    taken = exported.path.stat().st_size
    reached = planned.reached | ({"bytes": taken} if "bytes" in planned.limits else {})
    document: dict[str, Any] = {
        "manifold": str(source),
        "output": str(exported.path),
        "width": width,
        "gamma": round(1 - width, 6),
        "sizes": exported.sizes,
        "dropped": list(manifold.frame.dropped),
        "added": dict(manifold.frame.added),
        "parameters": cost.parameters,
        "macs": cost.macs,
        "bytes": taken,
    }
    if planned.limits:
        document["budget"] = {
            name: {"most": most, "reached": reached[name]} for name, most in planned.limits.items()
        }
    document["parameters_left"] = round(share_of_parameters(manifold, exported.sizes), 6)
    if measured is not None:
        document["metrics"] = dict(measured)
    if planned.judged is not None:
        document["judged_images"] = planned.judged
    if planned.searched is not None:
        document["search"] = asdict(planned.searched) | {"improved": planned.improved}
    write_json(json, document)
    if json == "-":
        return
    if planned.searched is not None:
        say(_search_table(manifold, planned))
    shown = f"width {width:g}" if planned.width is not None else f"widths {mean:.3g} on average"
    of = "".join(
        f", {n} {_shown(metric_named(n), v, planned)}" for n, v in (measured or {}).items()
    )
    say(f"{shown}: {cost.parameters:,} parameters, {cost.macs:,} MACs, {taken:,} bytes{of}")
    say(how_much_is_left(manifold, exported.sizes))
    known = None if planned.width is None else accuracy_line(manifold, planned.width)
    if known is not None and measured is None:
        say(known)
    for name, most in planned.limits.items():
        told = f"{show_cost(name, reached[name])} of {show_cost(name, most)}"
        say(f"{OPTIONS[name]}: {told} ({reached[name] / most:.1%})")
    say(f"written: {escape(str(exported.path))}")
    tell_next(json, "eval", exported.path, *again)


def _shown(metric: "Metric", value: float, planned: "Planned") -> str:
    """A metric, with its error where other images chose the network."""
    if planned.judged is None:
        return metric.show(value)
    return f"{metric.show_of(value, planned.judged)} on {planned.judged:,} images of their own"


def _search_table(manifold: "Manifold", planned: "Planned") -> object:
    from neumeta_cli.export.choose.budget import show_cost
    from neumeta_cli.export.choose.wish import mean_width
    from neumeta_cli.tasks import metric_named

    assert planned.searched is not None
    metrics = [metric_named(name) for name in planned.searched.uniform.metrics]
    rows = [
        [
            name,
            f"{mean_width(manifold, scored.found.sizes):.3g}",
            f"{len(scored.found.dropped)}",
            *(show_cost(limit, value) for limit, value in scored.found.cost.items()),
            f"{scored.loss:.4f}",
            *(m.show(scored.metrics[m.name]) for m in metrics),
        ]
        for name, scored in (
            ("one width for all", planned.searched.uniform),
            ("searched", planned.searched.allocated),
        )
    ]
    costs = planned.searched.uniform.found.cost
    columns = ["network", "mean width", "blocks fewer", *costs, "loss", *(m.name for m in metrics)]
    kept = "the searched one is kept" if planned.improved else "one width for all is kept"
    title = (
        f"{planned.searched.samples:,} networks scored; both on {planned.searched.images:,} images "
        f"that the search has not seen; {kept}"
    )
    return table(title, columns, rows)


def _tell_family(source: Path, folder: Path, members: "list[MemberRow]", json: str | None) -> None:
    from neumeta_cli.tasks import metric_named

    document = {"manifold": str(source), "output": str(folder)}
    write_json(json, document | {"networks": [asdict(member) for member in members]})
    if json == "-":
        return
    names = dict.fromkeys(name for member in members for name in member.metrics or {})
    metrics = [metric_named(name) for name in names]
    rows = [
        [
            member.file,
            f"{member.width:g}",
            f"{member.parameters:,}",
            f"{member.macs:,}",
            f"{member.bytes:,}",
            f"{1000 * member.latency:.2f}",
            *(m.show(member.metrics[m.name]) if member.metrics else "" for m in metrics),
        ]
        for member in members
    ]
    columns = [
        "file",
        "width",
        "parameters",
        "MACs",
        "bytes",
        "ms, batch 1",
        *(m.name for m in metrics),
    ]
    say(table(str(folder), columns, rows))
    tell_next(json, "info", folder / members[-1].file)
