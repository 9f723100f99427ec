"""``neumeta fit`` and ``train``."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from neumeta_cli.checkpoint import SUFFIXES, require_there, suffix_of
from neumeta_cli.cli.console import TerminalReporter, escape, note, say, write_json
from neumeta_cli.cli.gains import doubts_in, gained_in, tell_export_next, tell_next
from neumeta_cli.cli.options import (
    ArchOption,
    CheckpointOption,
    DataOption,
    Device,
    DownloadOption,
    EpochsOption,
    ImageSizeOption,
    Json,
    Overwrite,
    RecipeName,
    RecipeOption,
    SaveRecipe,
    ScopeOption,
    SetOption,
    SkipBrokenOption,
    TestDataOption,
    WeightsKeyOption,
    check_recipe_to_save,
    choose_device,
    keep_what_is_there,
    with_fields,
)
from neumeta_cli.errors import NeumetaError
from neumeta_cli.hardware import launched_processes
from neumeta_cli.reporting import counted
from neumeta_cli.runs import (
    COMPARE_FILE,
    MANIFOLD_FILE,
    RECIPE_FILE,
    REPORT_FOLDER,
    TABLE_FILE,
)


def fit(
    recipe: RecipeOption = None,
    checkpoint: CheckpointOption = None,
    weights_key: WeightsKeyOption = None,
    data: DataOption = None,
    arch: ArchOption = None,
    input_size: ImageSizeOption = None,
    scope: ScopeOption = None,
    download: DownloadOption = False,
    run: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the run. Default: runs/<recipe>/<time>."),
    ] = None,
    epochs: EpochsOption = None,
    test_data: TestDataOption = None,
    skip_broken: SkipBrokenOption = False,
    set_: SetOption = None,
    save_recipe: SaveRecipe = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Tell what is found, and what a fit takes; fit nothing."),
    ] = False,
    device: Device = "auto",
    seed: Annotated[int | None, typer.Option(help="Random seed, instead of the recipe's.")] = None,
    json: Json = None,
) -> None:
    """Trace, permute, distill and evaluate, in one run folder.

    Without --recipe, one is made for the network and the images, and told.

    Example: neumeta fit --checkpoint resnet18.pth --data my_images/

    On several GPUs: accelerate launch -m neumeta_cli fit --recipe … (the same up to rounding).
    """
    require_there(None if resume else checkpoint)  # to resume, the run's own files are enough
    from neumeta_cli import pipeline
    from neumeta_cli.checkpoint import load_checkpoint, needs_permission
    from neumeta_cli.cli.adapting import TestImages, adapted, automatic
    from neumeta_cli.cli.found import found_table
    from neumeta_cli.cli.measured import rows_table
    from neumeta_cli.cli.stopping import refuse_others_work, require_begun, telling_how_to_go_on
    from neumeta_cli.cli.tracing import tell_arch
    from neumeta_cli.recipe import load_recipe
    from neumeta_cli.training import STATE_FILE

    reporter = TerminalReporter()
    test, set_ = TestImages(test_data, skip_broken), with_fields(set_, scope, input_size)
    if run is not None and resume:
        require_begun(run)
    elif run is not None:
        refuse_others_work(run, [TABLE_FILE, COMPARE_FILE, STATE_FILE], overwrite)
    check_recipe_to_save(save_recipe, overwrite)
    begun = None if run is None or not resume else run / RECIPE_FILE
    if recipe is None and begun is not None and begun.exists():
        recipe = str(begun)
    if recipe is None:
        if checkpoint is None:
            raise NeumetaError(
                "name a recipe (--recipe; see: neumeta recipes list), or a checkpoint and images "
                "for an automatic one: --checkpoint FILE --data DIR"
            )
        loaded = load_checkpoint(checkpoint, arch, reporter=reporter, weights_key=weights_key)
        tell_arch(loaded)
        chosen = automatic(
            loaded, set_, data, epochs, seed, download, save_recipe, weights_key, test
        )
        folder = run or (pipeline.last_folder(chosen) if resume else pipeline.new_folder(chosen))
    else:
        if save_recipe is not None:
            raise NeumetaError("--save-recipe keeps an automatic recipe; leave out --recipe")
        extra = [*set_, *([] if arch is None else [f"model.arch={arch}"])]
        named = load_recipe(recipe)
        folder = run or (pipeline.last_folder(named) if resume else pipeline.new_folder(named))
        resolved = folder / RECIPE_FILE  # with what was said when the run began
        goes_on = resume and resolved.exists()
        source = str(resolved) if goes_on else recipe
        chosen = adapted(
            source, extra, checkpoint, data, epochs, seed, download, weights_key, test, goes_on
        )
    if dry_run:
        from neumeta_cli.direct import foresee, job_of

        job = job_of(chosen, reporter)
        forecast = foresee(job, choose_device(device), reporter)
        write_json(json, asdict(forecast))
        if json != "-":
            say(found_table(job, forecast, folder / MANIFOLD_FILE))
        return
    _tell_processes()
    again = f"neumeta fit --run {folder} --resume"
    with telling_how_to_go_on(reporter, folder, again):
        result = pipeline.run_recipe(chosen, folder, choose_device(device), resume, reporter)
    if result is None:
        return
    page = None  # where nothing is labelled, there is nothing to show
    if result.metrics:
        from neumeta_cli.compare import read_run
        from neumeta_cli.compare.report import write_report

        page = write_report(read_run(folder), folder, folder / REPORT_FOLDER)
    write_json(json, result.table.as_dict())
    if json != "-":
        cost = result.table.fit
        say(rows_table(f"{chosen.name}, scope {chosen.scope}", result.rows, result.metrics))
        say(
            f"fit: {cost.seconds:.0f} s for {counted(cost.epochs, 'epoch')} in {cost.precision}, "
            f"as long as {cost.plain_epochs:.1f} plain training epochs of the network "
            f"({cost.plain_epoch_seconds:.2f} s each)"
        )
        say(f"stored: {result.stored_bytes:,} bytes")
        metric = result.metrics[0] if result.metrics else None
        for line in gained_in(result.rows, metric):
            say(line)
        for line in doubts_in(result.rows, metric):
            note(line)
        say(f"run folder: {escape(str(folder))}")
        if page is not None:
            say(f"report: {escape(str(page))}")
    made = pipeline.recipe_arch(chosen)
    tell_export_next(json, folder / MANIFOLD_FILE, needs_permission(made.name, made.kwargs))


def train(
    recipe: RecipeName,
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint's file.")],
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Weights to start from, where names and shapes agree; also those of a part of the "
            "network, such as a ResNet-18 for a U-Net's encoder. An exported network is trained "
            "at its own width.",
        ),
    ] = None,
    weights_key: WeightsKeyOption = None,
    data: DataOption = None,
    download: DownloadOption = False,
    epochs: EpochsOption = None,
    set_: SetOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted training.")
    ] = False,
    overwrite: Overwrite = False,
    device: Device = "auto",
    seed: Annotated[int | None, typer.Option(help="Random seed, instead of the recipe's.")] = None,
    json: Json = None,
) -> None:
    """Train the recipe's network from scratch.

    The result is a checkpoint for neumeta fit. While it trains, its state is kept in
    OUTPUT.training/; --resume continues from there.

    Example: neumeta train --recipe digits_lenet -o lenet.safetensors

    On several GPUs: accelerate launch -m neumeta_cli train --recipe … (the same up to rounding).
    """
    if suffix_of(output) not in SUFFIXES:  # before the training, not after it
        raise NeumetaError(f"cannot write {output}: use one of the endings {', '.join(SUFFIXES)}")
    keep_what_is_there(output, overwrite or resume)
    require_there(init)
    from neumeta_cli import pipeline
    from neumeta_cli.checkpoint import (
        Checkpoint,
        Weights,
        write_weights,
    )
    from neumeta_cli.cli.adapting import adapted
    from neumeta_cli.cli.stopping import SAME_COMMAND, telling_how_to_go_on, working_folder
    from neumeta_cli.data.described import checkpoint_metadata
    from neumeta_cli.data.preprocessing import own_preprocessing, preprocessing_of, resolved
    from neumeta_cli.tasks import load_task, task_class
    from neumeta_cli.training import train_network

    extra = [*(set_ or []), *([] if epochs is None else [f"train.epochs={epochs}"])]
    chosen = adapted(recipe, extra, data=data, seed=seed, download=download)
    kind = task_class(chosen.task, trust_code=True)
    reporter = TerminalReporter()
    model, arch, size = pipeline.network_to_train(chosen, init, weights_key, reporter)
    section = resolved(chosen.data, own_preprocessing(arch, size), reporter)
    task = load_task(section, model, size, reporter=reporter, kind=kind)
    task.require_labels("training")
    folder, place = working_folder(output, resume, overwrite), choose_device(device)
    _tell_processes()
    with telling_how_to_go_on(reporter, folder, SAME_COMMAND):
        train_network(model, task, chosen.train, chosen.seed, place, folder, resume, reporter)
    if launched_processes()[1]:
        return
    checkpoint = Checkpoint(model, arch, size, Weights(dict(model.state_dict())), output)
    metadata = checkpoint_metadata(checkpoint, preprocessing_of(section, size[1:]).as_dict())
    inside = metadata if suffix_of(output) == ".safetensors" or arch.cuts else {}
    write_weights(output, replace(checkpoint.weights, metadata=inside))
    shutil.rmtree(folder)
    found = task.measure(model)
    write_json(json, {"output": str(output), "test_images": len(task.test), "metrics": found})
    if json == "-":
        return
    told = [f"{m.name} {m.show(found[m.name])}" for m in task.metrics if m.name in found]
    say(f"on {counted(len(task.test), 'test image')}: {', '.join(told)}")
    say(f"written: {escape(str(output))}")
    given = ["--data", data] if data is not None else []
    tell_next(None, "fit", "--recipe", recipe, "--checkpoint", output, *given)


def _tell_processes() -> None:
    count, _ = launched_processes()
    if count > 1:
        note(f"{count} processes share each batch")
