from .base import Metric as Metric, Outputs as Outputs, Task as Task
from .classification import Classification as Classification
from .formats import (
    FORMATS as FORMATS,
    NOTHING_TO_READ as NOTHING_TO_READ,
    find_images as find_images,
    require_root as require_root,
)
from .generation import Generation as Generation
from .images import Images as Images
from .open import (
    TASKS as TASKS,
    load_task as load_task,
    metric_named as metric_named,
    task_class as task_class,
)
from .segmentation import Segmentation as Segmentation
