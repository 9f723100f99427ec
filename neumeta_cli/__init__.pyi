from .checkpoint import (
    Arch as Arch,
    Checkpoint as Checkpoint,
    load_checkpoint as load_checkpoint,
    resolve as resolve,
)
from .compare import compare_methods as compare_methods
from .compare.report import write_report as write_report
from .compare.results import Comparison as Comparison, read_run as read_run
from .data import DataSection as DataSection, Images as Images
from .distill import (
    FitResult as FitResult,
    distill_checkpoint as distill_checkpoint,
    fit_manifold as fit_manifold,
)
from .distill.settings import FitSection as FitSection
from .errors import NeumetaError as NeumetaError
from .evaluate import (
    Row as Row,
    evaluate_network as evaluate_network,
    measure_latency as measure_latency,
    prune_l1 as prune_l1,
)
from .evaluate.measure import sweep as sweep
from .export import (
    Budget as Budget,
    Choice as Choice,
    Exported as Exported,
    Finish as Finish,
    Order as Order,
    Planned as Planned,
    Wish as Wish,
    describe as describe,
    export_family as export_family,
    export_network as export_network,
    export_planned as export_planned,
    load as load,
    save as save,
)
from .manifold import (
    LiveNetwork as LiveNetwork,
    Manifold as Manifold,
    build_manifold as build_manifold,
    inr_settings as inr_settings,
    load_manifold as load_manifold,
    save_manifold as save_manifold,
)
from .manifold.settings import NoiseSection as NoiseSection
from .permute import (
    Objective as Objective,
    Ordering as Ordering,
    Permuted as Permuted,
    invariance_error as invariance_error,
    permute_checkpoint as permute_checkpoint,
    permute_model as permute_model,
)
from .pipeline import (
    RunResult as RunResult,
    build_untrained as build_untrained,
    open_inputs as open_inputs,
    recipe_arch as recipe_arch,
    run_recipe as run_recipe,
)
from .recipe import Recipe as Recipe, load_recipe as load_recipe
from .reporting import Reporter as Reporter
from .resize import (
    Cost as Cost,
    Frame as Frame,
    calibrate as calibrate,
    measure_cost as measure_cost,
    open_frame as open_frame,
)
from .shipped import recipe_files as recipe_files
from .tasks import (
    Metric as Metric,
    Task as Task,
    load_task as load_task,
    task_class as task_class,
)
from .trace import Clique as Clique, Member as Member, Trace as Trace, trace_model as trace_model
from .training import train_network as train_network
from .training.settings import TrainSection as TrainSection

__version__: str
