"""``neumeta compare`` and ``report``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neumeta_cli.cli.console import TerminalReporter, escape, note, say, table, write_json
from neumeta_cli.cli.options import (
    CheckpointOption,
    DataOption,
    Device,
    DownloadOption,
    EpochsOption,
    Force,
    Json,
    Overwrite,
    RecipeName,
    SetOption,
    WeightsKeyOption,
    choose_device,
    keep_what_is_there,
    parse_widths,
)
from neumeta_cli.reporting import counted
from neumeta_cli.runs import PAGE_FILE, REPORT_FOLDER, RUNS, TABLE_FILE

if TYPE_CHECKING:
    from neumeta_cli.compare import Comparison
    from neumeta_cli.tasks import Metric

SeedsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Runs of each method, with the recipe's random seed and the next ones.",
    ),
]


def compare(
    recipe: RecipeName,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="M,M,…",
            help="Methods to run: neumeta, individual, distilled, slimmable, us_net, integral; "
            "pruning by l1, l2, taylor, hessian or random, or with norm statistics calibrated "
            "(l1_bn, …); or all. Default: those of the recipe.",
        ),
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(
            metavar="W,W,…|FROM:TO:STEP",
            help="Fractions of channels to keep, for example 1,0.75,0.5.",
        ),
    ] = None,
    force: Force = False,
    seeds: SeedsOption = None,
    checkpoint: CheckpointOption = None,
    weights_key: WeightsKeyOption = None,
    data: DataOption = None,
    download: DownloadOption = False,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of the comparison. Default: runs/<recipe>/compare."
        ),
    ] = None,
    epochs: EpochsOption = None,
    set_: SetOption = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Run NeuMeta and its competitors under the same conditions.

    All have the same checkpoint, data, widths and scope. What has been run with this recipe and
    this version of the code is not run again, and interrupted runs resume: give the same command
    again. A recipe with compare.vary runs an ablation instead.

    Example: neumeta compare --recipe digits_lenet --methods neumeta,us_net,l1 --seeds 3
    """
    from neumeta_cli.cli.adapting import adapted
    from neumeta_cli.cli.stopping import refuse_others_work
    from neumeta_cli.compare import compare_methods
    from neumeta_cli.training import STATE_FILE

    extra = list(set_ or [])
    if methods is not None:
        extra.append(f"compare.methods=[{methods}]")
    if seeds is not None:
        extra.append(f"compare.seeds={seeds}")
    if widths is not None:
        extra.append(f"eval.gammas={[round(1 - w, 9) for w in parse_widths(widths, force)]}")
    chosen = adapted(recipe, extra, checkpoint, data, epochs, None, download, weights_key)
    folder = run or RUNS / chosen.name / "compare"
    refuse_others_work(folder, [TABLE_FILE, STATE_FILE], overwrite)  # of a fit
    reporter = TerminalReporter()
    try:
        comparison = compare_methods(chosen, folder, choose_device(device), reporter)
    except KeyboardInterrupt:
        reporter.finish()
        note("stopped; give the same command to resume")
        raise
    write_json(json, comparison.as_dict())
    if json != "-":
        for metric in comparison.metrics:
            say(_table(comparison, metric))
        say(f"written: {escape(str(folder))}; see it with: neumeta report {escape(str(folder))}")


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a fit or a comparison.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder of the page. Default: RUN/report."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write one HTML page that shows a run.

    The page works offline and needs no other file; its pictures are also written as PNG and SVG.

    Example: neumeta report runs/digits_lenet/compare
    """
    if output is not None:  # the run's own page is drawn anew without a question
        keep_what_is_there(output / PAGE_FILE, overwrite)
    from neumeta_cli.compare import read_run
    from neumeta_cli.compare.report import write_report

    page = write_report(read_run(run), run, output or run / REPORT_FOLDER)
    say(f"written: {escape(str(page))}")


def _table(comparison: "Comparison", metric: "Metric") -> object:
    whole = metric.scaled(comparison.checkpoint.metrics[metric.name])
    gammas = comparison.gammas
    rows = [["checkpoint", *(whole if gamma == 0 else "" for gamma in gammas), "", ""]]
    for method in comparison.methods:
        found = [method.at(gamma) for gamma in gammas]
        cells = ["" if row is None else row.shown(metric) for row in found]
        rows.append([method.label, *cells, f"{method.seconds:.0f}", f"{method.stored_bytes:,}"])
    title = f"{comparison.title}, {counted(comparison.test_images, 'test image')}"
    columns = [
        f"{metric.axis} at γ",
        *(f"{100 * gamma:g}%" for gamma in gammas),
        "training (s)",
        "stored (bytes)",
    ]
    return table(title, columns, rows)
