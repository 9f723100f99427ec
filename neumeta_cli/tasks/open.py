"""Opening a task by the name that a recipe gives it."""

from collections.abc import Mapping

import torch
from torch import nn

from neumeta_cli.checkpoint import import_attribute, was_given
from neumeta_cli.data.images import Images
from neumeta_cli.data.settings import DataSection
from neumeta_cli.errors import NeumetaError
from neumeta_cli.reporting import Reporter, counted
from neumeta_cli.tasks.base import Metric, Outputs, Task
from neumeta_cli.tasks.classification import Classification
from neumeta_cli.tasks.generation import Generation
from neumeta_cli.tasks.segmentation import Segmentation

TASKS: Mapping[str, type[Task]] = {
    "classification": Classification,
    "segmentation": Segmentation,
    "generation": Generation,
}


def metric_named(name: str) -> Metric:
    """A metric of our tasks; one of another task is shown as a plain number."""
    known = {metric.name: metric for task in TASKS.values() for metric in task.metrics}
    return known.get(name, Metric(name, share=False))


def task_class(name: str, trust_code: bool) -> type[Task]:
    """The class of a task: one of ours, or a user's ``package.module:Class``.

    Args:
        name: as the recipe says it.
        trust_code: import a user's module; a recipe is trusted, and what it named here before. What
            else a file names is not.

    Raises:
        NeumetaError: no such task, or code that is not to be imported.

    """
    if name in TASKS:
        return TASKS[name]
    if ":" not in name:
        raise NeumetaError(f"unknown task {name!r}; a newer neumeta may know it")
    if not (trust_code or was_given(name, {})):
        raise NeumetaError(
            f"the file names code of its own, the task {name}, which is not imported without "
            "permission; if you trust it, say --trust-code"
        )
    found = import_attribute(name, "the recipe's task")
    if not isinstance(found, type) or not issubclass(found, Task):
        raise NeumetaError(f"task {name} is no subclass of neumeta_cli.Task")
    return found


def load_task(
    data: DataSection,
    model: nn.Module,
    input_size: tuple[int, int, int],
    train: bool = True,
    limit: int | None = None,
    reporter: Reporter | None = None,
    kind: type[Task] = Classification,
) -> Task:
    """Open a task's data and check that it goes with the network.

    Raises:
        NeumetaError: the data cannot be opened, or its number of classes, channels or pixels is
            not the network's.

    """
    test = kind.load(data, "test", input_size, reporter)
    training = kind.load(data, "train", input_size, reporter) if train else None
    for split, images in (("training", training), ("test", test)):
        if images is not None and len(images) == 0:
            raise NeumetaError(f"there are no {split} images")
    if training is not None and training.labelled and test.labelled:
        _check_same_classes(training, test)
    task = kind(data, training, test)
    if reporter is not None:
        _tell_labels(task, reporter)
    example = task.inputs(test, torch.arange(1), None)
    if tuple(example.shape[1:]) != tuple(input_size):
        got, wanted = ("×".join(map(str, s)) for s in (example.shape[1:], input_size))
        raise NeumetaError(f"the images are {got}, the network takes {wanted}")
    with torch.no_grad():
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        task.check(model, _outputs(model, example.to(device)))
    if training is not None and limit is not None and limit < len(training):
        training = training.take(limit, seed=0)
    return kind(data, training, test)


def _outputs(model: nn.Module, example: torch.Tensor) -> Outputs:
    """What a network gives for an image; some refuse small ones, each with words of its own."""
    try:
        return model(example)
    except Exception as error:
        size, reason = "×".join(map(str, example.shape[1:])), str(error).partition("\n")[0]
        raise NeumetaError(
            f"the network does not run on images of {size} ({reason}); if they are too small for "
            "it, give a larger model.input_size"
        ) from error


def _check_same_classes(training: Images, test: Images) -> None:
    if training.classes == test.classes:
        return
    alone = sorted({*training.classes} ^ {*test.classes})
    odd = f"; {alone[0]!r} is in one of them only" if alone else "; they are sorted differently"
    raise NeumetaError(
        f"the training data have {len(training.classes):,} classes, the test data "
        f"{len(test.classes):,}{odd}"
    )


def _tell_labels(task: Task, reporter: Reporter) -> None:
    """Say what is not measured, and what is measured on very few images."""
    if task.train is not None and not task.knows(task.train):
        reporter.tell(
            f"{counted(len(task.train), 'training image')} without labels: a fit follows the "
            "checkpoint's outputs alone"
        )
    if not task.knows(task.test):
        names = ", ".join(metric.name for metric in task.metrics)
        reporter.tell(
            f"the test images have no labels: {names} cannot be measured; name a folder of "
            "labelled ones with --test-data"
        )
    elif len(task.test) < len(task.test.classes):
        reporter.tell(
            f"warning: {counted(len(task.test), 'test image')} for {len(task.test.classes):,} "
            "classes; some classes are not tested"
        )
