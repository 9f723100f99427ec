"""``neumeta eval``."""

from pathlib import Path
from typing import Annotated

import typer

from neumeta_cli.cli.console import TerminalReporter, say, write_json
from neumeta_cli.cli.options import (
    ArchOption,
    DataOption,
    Device,
    DownloadOption,
    Json,
    SkipBrokenOption,
    TrustCode,
    choose_device,
    parse_counts,
    parse_widths,
)


def evaluate(
    file: Annotated[
        Path, typer.Argument(metavar="MANIFOLD|EXPORT|CHECKPOINT", help="What to measure.")
    ],
    data: DataOption = None,
    test_data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Folder of images in class folders, all of which are measured."
        ),
    ] = None,
    download: DownloadOption = False,
    skip_broken: SkipBrokenOption = False,
    widths: Annotated[
        str,
        typer.Option(
            metavar="W,W,…|FROM:TO:STEP",
            help="For a manifold: fractions of channels to keep, such as 1,0.5 or 0.25:1.25:0.05.",
        ),
    ] = "1,0.75,0.5,0.25",
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", "-r", metavar="NAME|FILE", help="Recipe that says how to read the data."
        ),
    ] = None,
    arch: ArchOption = None,
    samples: Annotated[
        str | None,
        typer.Option(
            metavar="K,K,…",
            help="Noisy samples to average (K), one row for each K, such as 1,50; 0: one, "
            "without noise.",
        ),
    ] = None,
    latency: Annotated[
        bool,
        typer.Option("--latency/--no-latency", help="Measure the time for batches of 1 and 64."),
    ] = True,
    device: Device = "auto",
    json: Json = None,
    trust_code: TrustCode = False,
) -> None:
    """Measure the task's metrics, cost and latency of networks.

    Give a manifold, for a network at each of several widths, or the file of one network. Latency is
    the median of forward passes on this machine, after some to warm up.

    Example: neumeta eval manifold.safetensors --data cifar10/ --widths 0.25:1:0.25 --samples 1,50
    """
    from neumeta_cli.checkpoint import Arch, load_checkpoint, resolve
    from neumeta_cli.cli.adapting import Asked, how_to_read
    from neumeta_cli.cli.measured import rows_table
    from neumeta_cli.evaluate import BATCHES, CHECKPOINT, MANIFOLD, evaluate_network, shown, sweep
    from neumeta_cli.export import accept_float32, describe, load
    from neumeta_cli.manifold import Manifold
    from neumeta_cli.tasks import load_task
    from neumeta_cli.tasks.preprocessing import PREPROCESSING, own_preprocessing

    place, reporter = choose_device(device), TerminalReporter()
    chosen = parse_widths(widths)
    counts = [] if samples is None else parse_counts(samples)
    batches = BATCHES if latency else ()
    asked = Asked(data, test_data, recipe, download, skip_broken)
    loaded = load(file, arch, trust_code)
    if isinstance(loaded, Manifold):
        for width in chosen:
            loaded.frame.sizes(width)  # refuses a bad width before any data is read
        size, recorded = loaded.input_size, loaded.provenance.recipe
        own = own_preprocessing(loaded.arch, size)
        section, kind = how_to_read(asked, recorded, own, trust_code, reporter)
        network = loaded.sample(1.0, samples=0)
        task = load_task(section, network, size, train=False, reporter=reporter, kind=kind)
        loaded.to(place)
        rows = sweep(loaded, task, chosen, None, counts, reporter, batches)
    else:
        accept_float32(loaded)
        document = describe(file)
        size = tuple(document.get("input_size") or load_checkpoint(file, arch).input_size)
        named = Arch(document["arch"]["name"]) if arch is None else resolve(arch)
        own = own_preprocessing(named, size, document.get(PREPROCESSING), file)
        section, kind = how_to_read(asked, document, own, trust_code, reporter)
        task = load_task(section, loaded, size, train=False, reporter=reporter, kind=kind)
        exported = document["kind"] == "network"
        method, width = (MANIFOLD, document["width"]) if exported else (CHECKPOINT, 1.0)
        rows = [evaluate_network(loaded.to(place), method, width, task, batches)]
    metrics = shown(task.metrics, rows)
    written = {"metrics": [m.as_dict() for m in metrics], "rows": [row.as_dict() for row in rows]}
    write_json(json, {"file": str(file), "test_images": len(task.test), **written})
    if json != "-":
        say(rows_table(f"{file}, {len(task.test):,} test images", rows, metrics))
