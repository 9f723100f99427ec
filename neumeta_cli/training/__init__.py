"""Training: one loop for the fit and for ordinary training, which stops and resumes anywhere."""

from neumeta_cli.training.journal import METRICS_FILE, STATE_FILE, Journal
from neumeta_cli.training.learner import START, Learner, Place
from neumeta_cli.training.loop import Loop
from neumeta_cli.training.plain import measure_plain_epoch, train_network
from neumeta_cli.training.precision import PRECISION_FILE
from neumeta_cli.training.processes import Processes
from neumeta_cli.training.running import DIED_FILE, RUNNING_FILE, refuse_if_running

__all__ = [
    "DIED_FILE",
    "METRICS_FILE",
    "PRECISION_FILE",
    "RUNNING_FILE",
    "START",
    "STATE_FILE",
    "Journal",
    "Learner",
    "Loop",
    "Place",
    "Processes",
    "measure_plain_epoch",
    "refuse_if_running",
    "train_network",
]
