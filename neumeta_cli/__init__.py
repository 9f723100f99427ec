"""Neural Metamorphosis: one pretrained checkpoint in, networks of any width out.

Whatever a script or a notebook needs is here; a name's own module, and torch with it, is imported
when the name is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neumeta_cli.checkpoint import Arch, Checkpoint, load_checkpoint, resolve
    from neumeta_cli.compare.compare import compare as compare_methods
    from neumeta_cli.compare.report import write_report
    from neumeta_cli.compare.results import Comparison, read_run
    from neumeta_cli.distill import FitResult, distill_checkpoint, fit_manifold
    from neumeta_cli.distill.settings import FitSection
    from neumeta_cli.errors import NeumetaError
    from neumeta_cli.evaluate import Row, evaluate_network, measure_latency, prune_l1
    from neumeta_cli.evaluate.measure import sweep
    from neumeta_cli.export import (
        Budget,
        Choice,
        Exported,
        Finish,
        Order,
        Planned,
        Wish,
        export_family,
        export_network,
        export_planned,
        load,
    )
    from neumeta_cli.export.describe import describe
    from neumeta_cli.manifold import (
        LiveNetwork,
        Manifold,
        build_manifold,
        inr_settings,
        load_manifold,
        save_manifold,
    )
    from neumeta_cli.manifold.settings import NoiseSection
    from neumeta_cli.permute import (
        Objective,
        Ordering,
        Permuted,
        invariance_error,
        permute_checkpoint,
        permute_model,
    )
    from neumeta_cli.pipeline import (
        RunResult,
        build_untrained,
        open_inputs,
        recipe_arch,
        run_recipe,
    )
    from neumeta_cli.recipe import Recipe, load_recipe
    from neumeta_cli.reporting import Reporter
    from neumeta_cli.resize import (
        Cost,
        Frame,
        calibrate,
        measure_cost,
        open_frame,
    )
    from neumeta_cli.shipped import recipe_files
    from neumeta_cli.tasks import Images, Metric, Task, load_task, task_class
    from neumeta_cli.tasks.settings import DataSection
    from neumeta_cli.trace import Clique, Member, Trace, trace_model
    from neumeta_cli.training import train_network
    from neumeta_cli.training.settings import TrainSection

__version__ = "0.1.0"
HOMES = {
    "Arch": "checkpoint:Arch",
    "Budget": "export:Budget",
    "Checkpoint": "checkpoint:Checkpoint",
    "Choice": "export:Choice",
    "Clique": "trace:Clique",
    "Comparison": "compare.results:Comparison",
    "Cost": "resize:Cost",
    "DataSection": "tasks.settings:DataSection",
    "Exported": "export:Exported",
    "Finish": "export:Finish",
    "FitResult": "distill:FitResult",
    "FitSection": "distill.settings:FitSection",
    "Frame": "resize:Frame",
    "Images": "tasks:Images",
    "LiveNetwork": "manifold:LiveNetwork",
    "Manifold": "manifold:Manifold",
    "Member": "trace:Member",
    "Metric": "tasks:Metric",
    "NeumetaError": "errors:NeumetaError",
    "NoiseSection": "manifold.settings:NoiseSection",
    "Objective": "permute:Objective",
    "Order": "export:Order",
    "Ordering": "permute:Ordering",
    "Permuted": "permute:Permuted",
    "Planned": "export:Planned",
    "Recipe": "recipe:Recipe",
    "Reporter": "reporting:Reporter",
    "Row": "evaluate:Row",
    "RunResult": "pipeline:RunResult",
    "Task": "tasks:Task",
    "Trace": "trace:Trace",
    "TrainSection": "training.settings:TrainSection",
    "Wish": "export:Wish",
    "build_manifold": "manifold:build_manifold",
    "build_untrained": "pipeline:build_untrained",
    "calibrate": "resize:calibrate",
    "compare_methods": "compare.compare:compare",
    "describe": "export.describe:describe",
    "distill_checkpoint": "distill:distill_checkpoint",
    "evaluate_network": "evaluate:evaluate_network",
    "export_family": "export:export_family",
    "export_network": "export:export_network",
    "export_planned": "export:export_planned",
    "fit_manifold": "distill:fit_manifold",
    "inr_settings": "manifold:inr_settings",
    "invariance_error": "permute:invariance_error",
    "load": "export:load",
    "load_checkpoint": "checkpoint:load_checkpoint",
    "load_manifold": "manifold:load_manifold",
    "load_recipe": "recipe:load_recipe",
    "load_task": "tasks:load_task",
    "measure_cost": "resize:measure_cost",
    "measure_latency": "evaluate:measure_latency",
    "open_frame": "resize:open_frame",
    "open_inputs": "pipeline:open_inputs",
    "permute_checkpoint": "permute:permute_checkpoint",
    "permute_model": "permute:permute_model",
    "prune_l1": "evaluate:prune_l1",
    "read_run": "compare.results:read_run",
    "recipe_arch": "pipeline:recipe_arch",
    "recipe_files": "shipped:recipe_files",
    "resolve": "checkpoint:resolve",
    "run_recipe": "pipeline:run_recipe",
    "save_manifold": "manifold:save_manifold",
    "sweep": "evaluate.measure:sweep",
    "task_class": "tasks:task_class",
    "trace_model": "trace:trace_model",
    "train_network": "training:train_network",
    "write_report": "compare.report:write_report",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = HOMES[name].partition(":")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})


__all__ = [
    "Arch",
    "Budget",
    "Checkpoint",
    "Choice",
    "Clique",
    "Comparison",
    "Cost",
    "DataSection",
    "Exported",
    "Finish",
    "FitResult",
    "FitSection",
    "Frame",
    "Images",
    "LiveNetwork",
    "Manifold",
    "Member",
    "Metric",
    "NeumetaError",
    "NoiseSection",
    "Objective",
    "Order",
    "Ordering",
    "Permuted",
    "Planned",
    "Recipe",
    "Reporter",
    "Row",
    "RunResult",
    "Task",
    "Trace",
    "TrainSection",
    "Wish",
    "build_manifold",
    "build_untrained",
    "calibrate",
    "compare_methods",
    "describe",
    "distill_checkpoint",
    "evaluate_network",
    "export_family",
    "export_network",
    "export_planned",
    "fit_manifold",
    "inr_settings",
    "invariance_error",
    "load",
    "load_checkpoint",
    "load_manifold",
    "load_recipe",
    "load_task",
    "measure_cost",
    "measure_latency",
    "open_frame",
    "open_inputs",
    "permute_checkpoint",
    "permute_model",
    "prune_l1",
    "read_run",
    "recipe_arch",
    "recipe_files",
    "resolve",
    "run_recipe",
    "save_manifold",
    "sweep",
    "task_class",
    "trace_model",
    "train_network",
    "write_report",
]
