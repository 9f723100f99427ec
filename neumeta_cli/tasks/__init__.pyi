from .base import Metric as Metric, Outputs as Outputs, Task as Task
from .classification import Classification as Classification
from .generation import Generation as Generation
from .open import (
    TASKS as TASKS,
    load_task as load_task,
    metric_named as metric_named,
    task_class as task_class,
)
from .segmentation import Segmentation as Segmentation
