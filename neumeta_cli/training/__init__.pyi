from .journal import METRICS_FILE as METRICS_FILE, STATE_FILE as STATE_FILE, Journal as Journal
from .kept import KeptMemory as KeptMemory
from .learner import START as START, Learner as Learner, Place as Place
from .loop import Loop as Loop
from .plain import measure_plain_epoch as measure_plain_epoch, train_network as train_network
from .precision import PRECISION_FILE as PRECISION_FILE
from .processes import Processes as Processes
from .running import (
    DIED_FILE as DIED_FILE,
    RUNNING_FILE as RUNNING_FILE,
    refuse_if_running as refuse_if_running,
)
