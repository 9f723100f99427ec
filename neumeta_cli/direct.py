"""One checkpoint as it is, straight to one manifold's file: opened, foreseen, fitted, measured."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from neumeta_cli.checkpoint import Checkpoint, check_resizable
from neumeta_cli.data.preprocessing import resolved
from neumeta_cli.distill import FitResult, distill_checkpoint, open_fit
from neumeta_cli.evaluate import Row
from neumeta_cli.hardware import launched_processes
from neumeta_cli.manifold import Manifold, check_opens, save_manifold
from neumeta_cli.measuring import measured_rows
from neumeta_cli.permute import check_trace
from neumeta_cli.pipeline import (
    open_inputs,
    preprocessing_for,
    with_data,
)
from neumeta_cli.recipe import Recipe, in_any_order, suited
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.resize import Frame, open_frame
from neumeta_cli.runs import point_latest
from neumeta_cli.tasks import Task, load_task, task_class

WIDTHS = (1.0, 0.75, 0.5, 0.25)  # that a fit without a run folder is measured at


@dataclass(frozen=True)
class Job:
    """A checkpoint, its data and a recipe, all of them read and found to go together."""

    checkpoint: Checkpoint
    task: Task
    recipe: Recipe
    frame: Frame


@dataclass(frozen=True)
class Forecast:
    """What a fit will take and give.

    Attributes:
        steps: in all.
        seconds: of all steps.
        precision: of matrix products and convolutions: what the recipe says, or the quicker one.
        memory: bytes that are held when a step is at its peak, the program itself among them.
        stored: bytes of the manifold's file.
        parts: of the parameters, what is left, by width.

    """

    steps: int
    seconds: float
    precision: str
    memory: int
    stored: int
    parts: Mapping[float, float]


@dataclass(frozen=True)
class Distilled:
    """A fitted manifold, what the fit took, and rows of networks that were measured."""

    manifold: Manifold
    result: FitResult
    rows: list[Row]


def open_job(checkpoint: Checkpoint, recipe: Recipe, reporter: Reporter | None = None) -> Job:
    """Read the data that a recipe names, as the checkpoint's network expects them.

    Raises:
        NeumetaError: they cannot be read, or do not go with the network.

    """
    reporter = reporter or Silent()
    check_resizable(checkpoint.arch.name, checkpoint.model, recipe.norm.fold)
    if recipe.model.input_size is not None:
        checkpoint = replace(checkpoint, input_size=recipe.model.input_size)
    recipe = with_data(recipe, resolved(recipe.data, preprocessing_for(checkpoint), reporter))
    task = load_task(
        recipe.data,
        checkpoint.model,
        checkpoint.input_size,
        limit=recipe.fit.limit,
        reporter=reporter,
        kind=task_class(recipe.task, trust_code=True),
    )
    return _traced(checkpoint, task, recipe, reporter)


def job_of(recipe: Recipe, reporter: Reporter | None = None) -> Job:
    """Read the checkpoint and the data that a recipe names.

    Raises:
        NeumetaError: one of them is not given or not right.

    """
    checkpoint, task = open_inputs(recipe, reporter)
    return _traced(checkpoint, task, with_data(recipe, task.data), reporter or Silent())


def _traced(checkpoint: Checkpoint, task: Task, recipe: Recipe, reporter: Reporter) -> Job:
    frame = open_frame(checkpoint.model, checkpoint.input_size, recipe.model.heads)
    check_trace(checkpoint, frame.trace)
    return Job(checkpoint, task, suited(recipe, frame, reporter), frame)


def foresee(
    job: Job,
    device: str = "cpu",
    reporter: Reporter | None = None,
    widths: Sequence[float] = WIDTHS[1:],
) -> Forecast:
    """Take a few steps of a fit and leave nothing behind.

    Args:
        job: what would be fitted.
        device: where to compute.
        reporter: is told of the progress.
        widths: whose sizes are told.

    Raises:
        NeumetaError: memory does not hold a step.

    """
    recipe = in_any_order(job.recipe, job.frame)  # to find out in which takes long
    fitter, _ = open_fit(
        job.checkpoint, job.task, recipe, device, None, reporter or Silent(), job.frame
    )
    outlook, manifold = fitter.loop.prepare(), fitter.manifold
    each = outlook.step_seconds
    seconds = fitter.loop.seconds_of_step() if each is None else each
    scoped = manifold.frame
    full = scoped.cost(scoped.full).parameters
    with TemporaryDirectory() as folder:
        stored = save_manifold(Path(folder) / "manifold.safetensors", manifold).stat().st_size
    return Forecast(
        outlook.steps,
        seconds * outlook.steps,
        outlook.precision,
        outlook.held + outlook.step_bytes,
        stored,
        {width: scoped.cost(scoped.sizes(width)).parameters / full for width in widths},
    )


def distill_job(
    job: Job,
    output: Path,
    folder: Path,
    device: str = "cpu",
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Distilled | None:
    """Fit a manifold, write it, and measure it; its file then holds what was found.

    Args:
        job: what to fit.
        output: the manifold's file, there before anything is measured.
        folder: of the fit's state, which goes when the file is written.
        device: where to compute.
        resume: go on from the state in the folder.
        reporter: is told of the progress.

    Returns:
        What it gave; None in all but the first of several processes, which write no files.

    """
    reporter = reporter or Silent()
    manifold, _, result = distill_checkpoint(
        job.checkpoint, job.task, job.recipe, device, folder, resume, reporter, job.frame
    )
    if launched_processes()[1]:
        return None
    check_opens(save_manifold(output, manifold))
    shutil.rmtree(folder)
    point_latest(output)
    reporter.tell(f"written: {output}; it is measured now")
    rows = measured_rows(manifold, job.checkpoint.model, job.task, WIDTHS, job.recipe, reporter)
    save_manifold(output, manifold)
    return Distilled(manifold, result, rows)
