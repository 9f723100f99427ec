"""The main job: trace, permute, distill and evaluate in one run folder."""

import json
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from neumeta_cli.checkpoint import (
    NETWORK,
    Arch,
    Checkpoint,
    InputSize,
    Weights,
    check_resizable,
    is_narrowed,
    keep_given,
    load_checkpoint,
    read_weights,
    refusing,
    resolve,
    suffix_of,
    take_weights,
    write_text,
    write_weights,
)
from neumeta_cli.data import FORMATS, NOTHING_TO_READ, require_root
from neumeta_cli.data.described import own_metadata
from neumeta_cli.data.preprocessing import (
    PREPROCESSING,
    Preprocessing,
    as_before,
    own_preprocessing,
    resolved,
)
from neumeta_cli.data.settings import DataSection
from neumeta_cli.distill import FitResult, distill_checkpoint
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate import (
    Channels,
    FitCost,
    FitTable,
    Likeness,
    Row,
    Similarity,
    count_channels,
    plot_over_gamma,
    prune_l1,
    save_both,
    shown,
)
from neumeta_cli.hardware import describe_machine, launched_processes
from neumeta_cli.manifold import check_opens, save_manifold
from neumeta_cli.measuring import measured_rows
from neumeta_cli.permute import CliqueOrder, Objective, Ordering, permute_checkpoint
from neumeta_cli.recipe import Recipe, load_recipe, suited
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.resize import open_frame
from neumeta_cli.runs import (
    MANIFOLD_FILE,
    PERMUTED_FILE,
    PICTURE_FILE,
    RECIPE_FILE,
    RUNS,
    TABLE_FILE,
    TRACE_FILE,
    picture_path,
    point_latest,
)
from neumeta_cli.seeding import seeded
from neumeta_cli.tasks import Metric, Task, load_task, task_class
from neumeta_cli.trace import Trace
from neumeta_cli.training import (
    DIED_FILE,
    METRICS_FILE,
    PRECISION_FILE,
    RUNNING_FILE,
    STATE_FILE,
    refuse_if_running,
)
from neumeta_cli.training import measure_plain_epoch as plain_epoch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RunResult:
    """What a run gave: its folder, the table, what the fit took, and the cost of an epoch.

    ``pictures`` names those of what the networks do, ``pictures/<name>.png`` and ``.svg``;
    ``source`` tells which tensors of the checkpoint's file were taken, ``hardware`` what it ran on.
    """

    folder: Path
    rows: list[Row]
    fit: FitResult
    plain_epoch_seconds: float
    stored_bytes: int
    orders: list[CliqueOrder]
    checkpoint_bytes: int
    test_images: int
    metrics: list[Metric]
    pictures: list[str]
    source: dict[str, Any]
    hardware: dict[str, Any]
    similarity: Similarity | None
    channels: Channels

    @property
    def table(self) -> FitTable:
        """The run's ``table.json``."""
        seconds = self.fit.seconds + self.fit.preparation_seconds
        return FitTable(
            rows=self.rows,
            fit=FitCost(
                seconds=round(seconds, 2),
                epochs=self.fit.epochs,
                steps=self.fit.steps,
                precision=self.fit.precision,
                plain_epoch_seconds=round(self.plain_epoch_seconds, 2),
                plain_epochs=round(seconds / self.plain_epoch_seconds, 3),
            ),
            stored_bytes=self.stored_bytes,
            checkpoint_bytes=self.checkpoint_bytes,
            test_images=self.test_images,
            metrics=self.metrics,
            pictures=self.pictures,
            source=self.source,
            total_variation={o.clique: (o.before, o.after) for o in self.orders},
            hardware=self.hardware,
            similarity=self.similarity,
            channels=self.channels,
        )


def run_recipe(
    recipe: Recipe,
    folder: Path,
    device: str = "cpu",
    resume: bool = False,
    reporter: Reporter | None = None,
) -> RunResult | None:
    """Run a recipe from the checkpoint to the table, all its files in ``folder``.

    Args:
        recipe: complete: it names a checkpoint and, unless the data ship with a package, a folder.
        folder: made if need be; an interrupted run resumes if ``resume`` is set.
        device: ``cpu`` or ``cuda``.
        resume: continue from the last state that was saved.
        reporter: is told of the progress.

    Returns:
        What it gave; None in all but the first of several processes, which write no files.

    Raises:
        NeumetaError: whatever the user can put right.

    """
    reporter = reporter or Silent()
    main = launched_processes()[1] == 0
    checkpoint, task = open_inputs(recipe, reporter)
    recipe = with_data(recipe, task.data)
    frame = open_frame(checkpoint.model, checkpoint.input_size, recipe.model.heads)
    recipe = suited(recipe, frame, reporter)
    permuted = permute_checkpoint(checkpoint, frame.trace, ordering_of(recipe), reporter)
    if main:
        _begin_folder(folder, recipe, frame.trace, resume)
        write_permuted(folder / PERMUTED_FILE, checkpoint, permuted.weights)
    model = permuted.model
    manifold, _, result = distill_checkpoint(
        replace(checkpoint, model=model), task, recipe, device, folder, resume, reporter, frame
    )
    if not main:
        return None
    epoch = plain_epoch(model, task, recipe.fit.batch_size, device)
    path = save_manifold(folder / MANIFOLD_FILE, manifold)
    check_opens(path)  # and there is something to export, should measuring be stopped
    point_latest(folder)
    reporter.tell(f"written: {path}; it is measured now")
    model.to(device)
    widths = [1 - gamma for gamma in recipe.eval.gammas]
    pictures: dict[str, Figure] = {f"{n}_checkpoint": f for n, f in task.pictures(model).items()}

    images = min(recipe.compare.images, recipe.eval.limit or len(task.test))
    alike = Likeness(task, images, recipe.compare.layer)
    alike.see(model)

    def look(width: float, network: nn.Module) -> None:
        alike.see(network, round(1 - width, 6))
        drawn = task.pictures(network)
        pictures.update({f"{name}_{width:g}": figure for name, figure in drawn.items()})

    scoped = replace(frame, scope=manifold.frame.scope)

    def pruned(width: float) -> nn.Module:
        small = prune_l1(scoped, model.cpu().state_dict(), scoped.sizes(width))
        return (scoped.fold(small) if manifold.fold else small).to(device)

    rows = measured_rows(manifold, model, task, widths, recipe, reporter, pruned, look)
    for name, figure in pictures.items():
        save_both(figure, picture_path(folder, name))
    save_manifold(path, manifold)  # with the table
    sizes = path.stat().st_size, checkpoint.path.stat().st_size
    run = RunResult(
        folder,
        rows,
        result,
        epoch,
        sizes[0],
        permuted.orders,
        sizes[1],
        min(len(task.test), recipe.eval.limit or len(task.test)),
        shown(task.metrics, rows),
        list(pictures),
        checkpoint.source(),
        describe_machine(device),
        alike.found,
        count_channels(scoped, recipe.eval.gammas),
    )
    run.table.write(folder / TABLE_FILE)
    title = f"{recipe.name}: {checkpoint.arch.short}, scope {recipe.scope}"
    if run.metrics:  # else nothing is labelled
        plot_over_gamma(rows, run.metrics[0], folder / PICTURE_FILE, recipe.fit.gamma, title)
    return run


def _begin_folder(folder: Path, recipe: Recipe, trace: Trace, resume: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    refuse_if_running(folder)
    if not resume:
        for stale in (STATE_FILE, METRICS_FILE, PRECISION_FILE, RUNNING_FILE, DIED_FILE):
            (folder / stale).unlink(missing_ok=True)
    keep_recipe(folder / RECIPE_FILE, recipe, resume)
    write_text(folder / TRACE_FILE, json.dumps(trace.as_dict(), indent=1))


def keep_recipe(begun: Path, recipe: Recipe, resume: bool) -> None:
    """Write a run's recipe into its folder; only the first of several processes does.

    Raises:
        NeumetaError: the run was begun with other weights of the same file.

    """
    if resume and begun.exists():
        key = load_recipe(str(begun)).model.weights_key
        if key != recipe.model.weights_key:
            raise NeumetaError(
                f"{begun.parent} was begun with the weights under {key or 'no key'}; leave out "
                "--weights-key or --resume"
            )
    if launched_processes()[1] == 0:
        write_text(begun, recipe.as_yaml())


def ordering_of(recipe: Recipe) -> Ordering:
    """How a recipe has channel orders found."""
    by = recipe.permute
    return Ordering(by.solver, by.seed, by.time_limit, Objective(by.norm, by.weighting))


def open_inputs(recipe: Recipe, reporter: Reporter | None = None) -> tuple[Checkpoint, Task]:
    """Load a recipe's checkpoint and data, the cheap checks first.

    ``data`` of the task is the recipe's section with all that the network expects in it.

    Raises:
        NeumetaError: one of them is not given or not right.

    """
    lacking = []
    kind = task_class(recipe.task, trust_code=True)
    if recipe.data.format not in NOTHING_TO_READ and recipe.data.root is None:
        lacking.append(f"a data folder: --data DIR with {FORMATS[recipe.data.format].layout}")
    if recipe.model.checkpoint is None:
        lacking.append(f"a checkpoint: --checkpoint FILE, weights of {recipe.model.arch}")
    if lacking:
        raise NeumetaError(f"recipe {recipe.name} needs {'; and '.join(lacking)}")
    asked = recipe.model
    assert asked.checkpoint is not None
    require_root(recipe.data)
    checkpoint = load_checkpoint(
        Path(asked.checkpoint), recipe_arch(recipe), asked.input_size, reporter, asked.weights_key
    )
    check_resizable(checkpoint.arch.name, checkpoint.model, recipe.norm.fold)
    data = resolved(recipe.data, preprocessing_for(checkpoint), reporter)
    task = load_task(
        data,
        checkpoint.model,
        checkpoint.input_size,
        limit=recipe.fit.limit,
        reporter=reporter,
        kind=kind,
    )
    return checkpoint, task


def preprocessing_for(checkpoint: Checkpoint) -> Preprocessing:
    """What a checkpoint's network expects of its images."""
    metadata = checkpoint.weights.metadata
    recorded = metadata.get(PREPROCESSING)
    if recorded is None and metadata.get("data"):  # of an exported network
        with refusing(checkpoint.path, NETWORK):
            recorded = as_before(DataSection(**metadata["data"])).model_dump()
    return own_preprocessing(checkpoint.arch, checkpoint.input_size, recorded, checkpoint.path)


def with_data(recipe: Recipe, data: DataSection) -> Recipe:
    """A recipe with another section ``data``."""
    return recipe.model_copy(update={"data": data})


def build_untrained(recipe: Recipe) -> tuple[nn.Module, Any]:
    """The recipe's network with fresh weights, and its architecture."""
    arch = recipe_arch(recipe)
    with seeded(recipe.seed):
        return arch.build("cpu"), arch


def network_to_train(
    recipe: Recipe, init: Path | None, weights_key: str | None, reporter: Reporter
) -> tuple[nn.Module, Arch, InputSize]:
    """The recipe's network, its architecture and the (C, H, W) of its input.

    Its weights are fresh but for those that ``init`` has. If that is a narrowed network of the
    recipe's architecture, it is taken as it is.

    Raises:
        NeumetaError: nothing in ``init`` fits the network.

    """
    weights = None if init is None else read_weights(init, weights_key)
    if init is not None and weights is not None and is_narrowed(weights):
        opened = load_checkpoint(
            init, recipe_arch(recipe), recipe.model.input_size, reporter, weights_key
        )
        reporter.tell(f"{init}: {opened.arch.name}, as it was narrowed")
        return opened.model, opened.arch, opened.input_size
    model, arch = build_untrained(recipe)
    keep_given(arch.name, arch.kwargs)
    if weights is not None:
        taken = take_weights(model, weights.tensors)
        if not taken:
            raise NeumetaError(f"{init} has no weights for {arch.name}: no name and shape agree")
        reporter.tell(f"{taken:,} of {len(model.state_dict()):,} tensors from {init}")
    return model, arch, recipe.model.input_size or arch.default_input_size()


def recipe_arch(recipe: Recipe) -> Arch:
    """The recipe's architecture, with its arguments."""
    arch, classes = resolve(recipe.model.arch), recipe.model.num_classes
    counted = {} if classes is None else {"num_classes": classes}
    return replace(arch, kwargs={**arch.kwargs, **recipe.model.kwargs, **counted})


def write_permuted(
    path: Path, checkpoint: Checkpoint, permuted: Weights, size_known: bool = True
) -> Path:
    """Write a permuted checkpoint; ``.safetensors`` and what was narrowed tell how to build it.

    Args:
        path: of the file.
        checkpoint: that was permuted.
        permuted: its weights.
        size_known: whether the size of the input is that of the images, and not just the library's.

    """
    if suffix_of(path) == ".safetensors" or checkpoint.arch.cuts:
        told = own_metadata(checkpoint) | {"permuted": True}
        if not size_known and "input_size" not in checkpoint.weights.metadata:
            del told["input_size"]
        permuted = Weights(permuted.tensors, told)
    elif suffix_of(checkpoint.path) == ".safetensors":
        permuted = replace(permuted, metadata={})
    keep_given(checkpoint.arch.name, checkpoint.arch.kwargs)
    return write_weights(path, permuted)


def new_folder(recipe: Recipe) -> Path:
    """A fresh run folder, ``runs/<recipe>/<time>``."""
    return RUNS / recipe.name / datetime.now().strftime("%Y-%m-%d-%H%M%S")


def last_folder(recipe: Recipe) -> Path:
    """The newest run folder of a recipe that has not been finished, for ``--resume``.

    Raises:
        NeumetaError: there is none.

    """
    begun = [p for f in (STATE_FILE, RUNNING_FILE) for p in (RUNS / recipe.name).glob("*/" + f)]
    folders = sorted(begun, key=lambda path: path.stat().st_mtime)
    if not folders:
        raise NeumetaError(
            f"no run of {recipe.name} to resume under {RUNS / recipe.name}; leave out --resume"
        )
    return folders[-1].parent
