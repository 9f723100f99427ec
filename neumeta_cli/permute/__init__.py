"""Permuting channels so that weights vary smoothly along them (intra-model smoothness)."""

from neumeta_cli.permute.checked import Permuted, check_trace, permute_checkpoint
from neumeta_cli.permute.invariance import invariance_error
from neumeta_cli.permute.objective import (
    Objective,
    channel_distances,
    path_length,
)
from neumeta_cli.permute.orders import (
    CliqueOrder,
    Ordering,
    apply_orders,
    find_orders,
    permute_model,
    permute_tensors,
)
from neumeta_cli.permute.solvers import SOLVERS

__all__ = [
    "SOLVERS",
    "CliqueOrder",
    "Objective",
    "Ordering",
    "Permuted",
    "apply_orders",
    "channel_distances",
    "check_trace",
    "find_orders",
    "invariance_error",
    "path_length",
    "permute_checkpoint",
    "permute_model",
    "permute_tensors",
]
