from .checked import (
    Permuted as Permuted,
    check_trace as check_trace,
    permute_checkpoint as permute_checkpoint,
)
from .invariance import invariance_error as invariance_error
from .objective import (
    Objective as Objective,
    channel_distances as channel_distances,
    path_length as path_length,
)
from .orders import (
    CliqueOrder as CliqueOrder,
    Ordering as Ordering,
    apply_orders as apply_orders,
    find_orders as find_orders,
    permute_model as permute_model,
    permute_tensors as permute_tensors,
)
from .solvers import SOLVERS as SOLVERS
