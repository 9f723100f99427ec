"""What a task is: data, loss, metrics."""

from neumeta_cli.tasks.base import Metric, Outputs, Task
from neumeta_cli.tasks.classification import Classification
from neumeta_cli.tasks.formats import FORMATS, NOTHING_TO_READ, find_images, require_root
from neumeta_cli.tasks.generation import Generation
from neumeta_cli.tasks.images import Images
from neumeta_cli.tasks.open import TASKS, load_task, metric_named, task_class
from neumeta_cli.tasks.segmentation import Segmentation

__all__ = [
    "FORMATS",
    "NOTHING_TO_READ",
    "TASKS",
    "Classification",
    "Generation",
    "Images",
    "Metric",
    "Outputs",
    "Segmentation",
    "Task",
    "find_images",
    "load_task",
    "metric_named",
    "require_root",
    "task_class",
]
