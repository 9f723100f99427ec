"""Distilling a checkpoint into a manifold: the fit, its losses, and resuming."""

from neumeta_cli.distill.fit import FitResult, Fitter, fit_manifold
from neumeta_cli.distill.job import distill_checkpoint
from neumeta_cli.distill.journal import METRICS_FILE, STATE_FILE
from neumeta_cli.distill.plain import measure_plain_epoch, train_network
from neumeta_cli.distill.precision import PRECISION_FILE
from neumeta_cli.distill.running import DIED_FILE, RUNNING_FILE, refuse_if_running
from neumeta_cli.hardware import launched_processes

__all__ = [
    "DIED_FILE",
    "METRICS_FILE",
    "PRECISION_FILE",
    "RUNNING_FILE",
    "STATE_FILE",
    "FitResult",
    "Fitter",
    "distill_checkpoint",
    "fit_manifold",
    "launched_processes",
    "measure_plain_epoch",
    "refuse_if_running",
    "train_network",
]
