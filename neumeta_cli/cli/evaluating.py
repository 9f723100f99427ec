"""``neumeta eval``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from neumeta_cli.checkpoint import require_there
from neumeta_cli.cli.console import TerminalReporter, say, write_json
from neumeta_cli.cli.depths import AUTO, DepthOption, shorten
from neumeta_cli.cli.gains import tell_export_next
from neumeta_cli.cli.options import (
    ArchOption,
    DataOption,
    DataRecipeOption,
    Device,
    DownloadOption,
    Force,
    ImageSizeOption,
    Json,
    SkipBrokenOption,
    TrustCode,
    WeightsKeyOption,
    choose_device,
    parse_counts,
    parse_image_size,
    parse_widths,
)
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import counted


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
    force: Force = False,
    depth: DepthOption = None,
    recipe: DataRecipeOption = None,
    arch: ArchOption = None,
    input_size: ImageSizeOption = None,
    weights_key: WeightsKeyOption = None,
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

    Give a manifold, for a network at each of several widths, or the file of one network; .onnx and
    .pt2 files are run as they are. Latency is
    the median of forward passes on this machine, after some to warm up.

    Example: neumeta eval manifold.safetensors --data cifar10/ --widths 0.25:1:0.25 --samples 1,50
    """
    chosen = parse_widths(widths, force)
    if AUTO in (depth or ()):
        raise NeumetaError("--depth auto looks for what serves a budget: it is for neumeta export")
    counts = [] if samples is None else parse_counts(samples)
    asked = parse_image_size(input_size)
    require_there(file)
    from neumeta_cli.checkpoint import Arch, Checkpoint, load_checkpoint
    from neumeta_cli.cli.adapting import Asked, arch_of, how_to_read
    from neumeta_cli.cli.measured import rows_table
    from neumeta_cli.cli.sizing import at_size_of
    from neumeta_cli.data import find_images
    from neumeta_cli.data.preprocessing import own_preprocessing, resolved
    from neumeta_cli.evaluate import BATCHES, CHECKPOINT, MANIFOLD, evaluate_network, shown, sweep
    from neumeta_cli.export import accept_float32, describe, kind_of, load
    from neumeta_cli.export.programs import PROGRAMS, Running
    from neumeta_cli.manifold import Manifold
    from neumeta_cli.pipeline import preprocessing_for
    from neumeta_cli.recipe import load_recipe
    from neumeta_cli.resize import Cost
    from neumeta_cli.tasks import Classification, load_task

    place, reporter = choose_device(device), TerminalReporter()
    batches = BATCHES if latency else ()
    said = Asked(data, test_data, recipe, download, skip_broken)
    told: dict[str, Any] = {}
    cost = None
    opened: Checkpoint | None = None
    loaded: Any
    if file.suffix in PROGRAMS and file.exists():
        loaded = program = Running(file)
        recorded = program.metadata
        size, method, width = tuple(recorded["input_size"]), MANIFOLD, recorded["width"]
        own = own_preprocessing(Arch(recorded["arch"]["name"]), size)
        cost = Cost(recorded["parameters"], recorded["macs"], file.stat().st_size)
        place = "cpu"  # where these programs run
    elif kind_of(file, weights_key) == "checkpoint":
        made: Any = arch
        if recipe is not None:
            named = load_recipe(recipe)
            asked = asked or named.model.input_size
            made = arch or arch_of(named, file, weights_key)
        opened = load_checkpoint(file, made, asked, reporter, weights_key, trust_code)
        loaded, size, told = opened.model, opened.input_size, {"source": opened.source()}
        own, recorded = preprocessing_for(opened), opened.weights.metadata
        method, width = CHECKPOINT, 1.0
    elif isinstance(loaded := load(file, arch, trust_code), Manifold):
        for narrow in chosen:
            loaded.frame.sizes(narrow)  # refuses a bad width before any data is read
        loaded = shorten(loaded, depth or [], reporter)
        size, recorded = loaded.input_size, loaded.provenance.recipe
        own = own_preprocessing(loaded.arch, size)
    else:
        accept_float32(loaded)
        recorded = describe(file)
        size, method, width = tuple(recorded["input_size"]), MANIFOLD, recorded["width"]
        own = own_preprocessing(Arch(recorded["arch"]["name"]), size)
    if depth and not isinstance(loaded, Manifold):
        raise NeumetaError(f"--depth is for a manifold, and {file} is one network")
    if asked is not None and opened is None:
        raise NeumetaError(f"{file} knows the size of its input; leave out --input-size")
    section, kind, by = how_to_read(said, recorded, trust_code)
    if opened is not None and recipe is None and asked is None and kind is Classification:
        images = find_images(section, "test", opened.input_size)
        opened, _, fields = at_size_of(images, opened, section)
        size, own = opened.input_size, preprocessing_for(opened)
        section, by = section.model_copy(update=fields), "as the images are" if fields else by
    section = resolved(section, own, reporter, by)
    network = loaded.sample(1.0, samples=0) if isinstance(loaded, Manifold) else loaded
    task = load_task(section, network, size, train=False, reporter=reporter, kind=kind)
    if isinstance(loaded, Manifold):
        rows = sweep(loaded.to(place), task, chosen, None, counts, reporter, batches)
    else:
        rows = [evaluate_network(loaded.to(place), method, width, task, batches, cost=cost)]
    metrics = shown(task.metrics, rows)
    written = {"metrics": [m.as_dict() for m in metrics], "rows": [row.as_dict() for row in rows]}
    write_json(json, {"file": str(file), "test_images": len(task.test), **told, **written})
    if json != "-":
        say(rows_table(f"{file}, {counted(len(task.test), 'test image')}", rows, metrics))
    if isinstance(loaded, Manifold):
        tell_export_next(json, file, trust_code)
