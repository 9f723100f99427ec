"""``neumeta quickstart`` and ``distill``."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neumeta_cli.checkpoint import require_there
from neumeta_cli.cli.console import TerminalReporter, escape, note, say
from neumeta_cli.cli.gains import doubts_in, gained_in, tell_export_next
from neumeta_cli.cli.options import (
    ArchOption,
    CheckpointArgument,
    DataOption,
    Device,
    DownloadOption,
    EpochsOption,
    ImageSizeOption,
    Overwrite,
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
from neumeta_cli.reporting import counted
from neumeta_cli.runs import RECIPE_FILE

if TYPE_CHECKING:
    from neumeta_cli.checkpoint import Arch
    from neumeta_cli.direct import Job

OutputOption = Annotated[Path, typer.Option("--output", "-o", help="The manifold's file.")]
MANIFOLD = Path("manifold.safetensors")


def quickstart(
    checkpoint: CheckpointArgument,
    data: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Folder of images: train/<class>/ and test/<class>/ (or val/), class folders "
            "alone, or images without classes.",
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Fit without asking.")] = False,
    arch: ArchOption = None,
    input_size: ImageSizeOption = None,
    test_data: TestDataOption = None,
    epochs: EpochsOption = None,
    output: OutputOption = MANIFOLD,
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Show what is found, ask once, and fit.

    The fit is that of neumeta distill with an automatic recipe. Without a terminal to ask in, it
    goes on with --yes only.

    Example: neumeta quickstart resnet18.pth --data my_images/
    """
    check_output(output, overwrite)
    require_there(checkpoint)
    from neumeta_cli.checkpoint import load_checkpoint
    from neumeta_cli.cli.adapting import TestImages, automatic
    from neumeta_cli.cli.found import found_table
    from neumeta_cli.direct import foresee, open_job

    place = choose_device(device)
    reporter = TerminalReporter()
    loaded = load_checkpoint(checkpoint, arch, reporter=reporter)
    said = with_fields(None, None, input_size)
    recipe = automatic(loaded, said, data, epochs, test=TestImages(test_data))
    job = open_job(loaded, recipe, reporter)
    note("a few steps are tried, to know what the fit takes")
    forecast = foresee(job, place, reporter)
    say(found_table(job, forecast, output))
    if not yes and not _agreed():
        return
    fit = job.recipe.fit.model_copy(update={"precision": forecast.precision})  # tried already
    job = replace(job, recipe=job.recipe.model_copy(update={"fit": fit}))
    _carry_out(job, output, place, overwrite=overwrite)


def distill(
    checkpoint: CheckpointArgument,
    data: DataOption = None,
    download: DownloadOption = False,
    recipe: RecipeOption = None,
    output: OutputOption = MANIFOLD,
    arch: ArchOption = None,
    weights_key: WeightsKeyOption = None,
    input_size: ImageSizeOption = None,
    scope: ScopeOption = None,
    epochs: EpochsOption = None,
    test_data: TestDataOption = None,
    skip_broken: SkipBrokenOption = False,
    set_: SetOption = None,
    save_recipe: SaveRecipe = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted fit.")] = False,
    overwrite: Overwrite = False,
    device: Device = "auto",
    seed: Annotated[int | None, typer.Option(help="Random seed, instead of the recipe's.")] = None,
) -> None:
    """Fit a manifold to one checkpoint as it is.

    Without --recipe, one is made for the network and the images, and told. Channels are not
    reordered: see neumeta permute. While it runs, its state is kept in OUTPUT.training/; --resume
    continues from there.

    Example: neumeta distill resnet18.pth --data my_images/
    """
    check_output(output, overwrite or resume)
    check_recipe_to_save(save_recipe, overwrite)
    require_there(checkpoint)
    from neumeta_cli.checkpoint import load_checkpoint
    from neumeta_cli.cli.adapting import TestImages, adapted, arch_of, automatic
    from neumeta_cli.cli.tracing import tell_arch
    from neumeta_cli.direct import open_job

    reporter = TerminalReporter()
    extra = with_fields(set_, scope, input_size)
    test, chosen = TestImages(test_data, skip_broken), None
    made: str | Arch | None = arch
    if recipe is not None:
        chosen = adapted(recipe, extra, checkpoint, data, epochs, seed, download, weights_key, test)
        weights_key = chosen.model.weights_key
        made = arch or arch_of(chosen, checkpoint, weights_key)
    loaded = load_checkpoint(checkpoint, made, reporter=reporter, weights_key=weights_key)
    tell_arch(loaded)
    if chosen is None:
        chosen = automatic(
            loaded, extra, data, epochs, seed, download, save_recipe, weights_key, test
        )
    job = open_job(loaded, chosen, reporter)
    _carry_out(job, output, choose_device(device), resume, overwrite)


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse a manifold's name before the fit, not after it.

    Raises:
        NeumetaError: it has another ending, or the file is there and is not to be replaced.

    """
    if output.suffix != ".safetensors":
        raise NeumetaError(f"cannot write {output}: a manifold's file ends in .safetensors")
    keep_what_is_there(output, overwrite)


def _agreed() -> bool:
    """Whether the user wants the fit; without a terminal, how to say so is told instead."""
    if _terminal():
        return typer.confirm("Fit it now?", default=True, err=True)
    note(f"nothing is fitted yet; to go on: {shlex.join(['neumeta', *sys.argv[1:], '--yes'])}")
    return False


def _terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _carry_out(
    job: "Job", output: Path, device: str, resume: bool = False, overwrite: bool = False
) -> None:
    """Fit, write, measure, and tell what was gained."""
    from neumeta_cli.checkpoint import needs_permission
    from neumeta_cli.cli.stopping import SAME_COMMAND, telling_how_to_go_on, working_folder
    from neumeta_cli.direct import distill_job
    from neumeta_cli.evaluate import shown
    from neumeta_cli.pipeline import keep_recipe

    reporter, folder = TerminalReporter(), working_folder(output, resume, overwrite)
    keep_recipe(folder / RECIPE_FILE, job.recipe, resume)
    with telling_how_to_go_on(reporter, folder, SAME_COMMAND):
        found = distill_job(job, output, folder, device, resume, reporter)
    if found is None:
        return
    took = found.result.seconds + found.result.preparation_seconds
    metrics = shown(job.task.metrics, found.rows)
    say(f"fit: {took:.0f} s, {counted(found.result.epochs, 'epoch')}")
    metric = metrics[0] if metrics else None
    for line in gained_in(found.rows, metric):
        say(line)
    for line in doubts_in(found.rows, metric):
        note(line)
    say(f"written: {escape(str(output))}")
    made = job.checkpoint.arch
    tell_export_next(None, output, needs_permission(made.name, made.kwargs))
