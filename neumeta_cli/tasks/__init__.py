"""What a task is: data, loss, metric."""

from neumeta_cli.tasks.classification import Classification, load_task
from neumeta_cli.tasks.images import Images, load_images

__all__ = ["Classification", "Images", "load_images", "load_task"]
