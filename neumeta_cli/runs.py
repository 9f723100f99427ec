"""Where runs lie, and what their files are called.

What a fit keeps while it runs (its state, its journal) is named where that is written.
"""

import time
from pathlib import Path

from neumeta_cli.errors import NeumetaError

RUNS = Path("runs")
LATEST = RUNS / "latest"
RECIPE_FILE = "recipe.yaml"
TRACE_FILE = "trace.json"
PERMUTED_FILE = "permuted.safetensors"
MANIFOLD_FILE = "manifold.safetensors"
PICTURES_FOLDER = "pictures"
REPORT_FOLDER = "report"
TABLE_FILE = f"{REPORT_FOLDER}/table.json"
PICTURE_FILE = f"{REPORT_FOLDER}/over_gamma.png"
PAGE_FILE = "report.html"  # in the report's folder, which a user may choose
COMPARE_FILE = "compare.json"
RESULT_FILE = "result.json"  # of one run of a method, in a comparison's folder
FIT_FILE = "fit.json"  # what the fit of a method took, beside its manifold


def picture_path(run: Path, name: str) -> Path:
    """The picture of what a network does, in a run's folder."""
    return run / PICTURES_FOLDER / f"{name}.png"


def latest_manifold() -> Path:
    """The manifold of the run that finished last.

    Raises:
        NeumetaError: no run has finished here.

    """
    path = LATEST.resolve() if LATEST.is_file() else LATEST / MANIFOLD_FILE  # distill, fit
    if not path.is_file():
        raise NeumetaError(
            f"no manifold given and no {path} here; run neumeta fit or distill first, or name the "
            "file"
        )
    return path


def point_latest(made: Path) -> None:
    """Let ``runs/latest`` be this run's folder, or the manifold's file where there is none."""
    RUNS.mkdir(exist_ok=True)
    partial = RUNS / f".{LATEST.name}.{time.time_ns()}"
    partial.symlink_to(made.resolve())
    partial.replace(LATEST)
