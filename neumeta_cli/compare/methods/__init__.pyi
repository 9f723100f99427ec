from .base import Bench as Bench, Method as Method, Outcome as Outcome
from .pruned import PRUNING as PRUNING
from .table import METHODS as METHODS
from .trained import NeuMeta as NeuMeta
