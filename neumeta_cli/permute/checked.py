"""Permuting a checkpoint: found, applied and shown to leave the function as it was."""

import copy
from dataclasses import dataclass

import numpy as np
from torch import nn

from neumeta_cli.checkpoint import Checkpoint, Weights, put_tensors
from neumeta_cli.errors import NeumetaError
from neumeta_cli.permute.invariance import invariance_error
from neumeta_cli.permute.orders import CliqueOrder, Ordering, find_orders, permute_tensors
from neumeta_cli.reporting import Reporter
from neumeta_cli.trace import Inputs, Trace

EXACT = 1e-9  # largest relative difference in float64 that is rounding


@dataclass(frozen=True)
class Permuted:
    """A checkpoint whose channels have changed places.

    Attributes:
        weights: the file's content with permuted tensors, in its own dtypes.
        model: the network with them, float32.
        orders: what was found for each clique.
        error: relative difference of the outputs in float64.

    """

    weights: Weights
    model: nn.Module
    orders: list[CliqueOrder]
    error: float


def permute_checkpoint(
    checkpoint: Checkpoint,
    trace: Trace,
    ordering: Ordering,
    reporter: Reporter | None = None,
    inputs: Inputs | None = None,
) -> Permuted:
    """Permute a checkpoint, and make sure that the network computes what it did.

    Args:
        checkpoint: it is left as it is.
        trace: of its network.
        ordering: how orders are to be found.
        reporter: is told of the progress.
        inputs: that the network was traced on, where not the checkpoint's own.

    Raises:
        NeumetaError: the permuted network computes something else: the trace is wrong.

    """
    model = checkpoint.model
    parameters = [name for name, _ in model.named_parameters()]
    orders = find_orders(model.state_dict(), trace, parameters, ordering, reporter)
    by_clique = {order.clique: order.order for order in orders}
    tensors = permute_tensors(model, checkpoint.weights.tensors, trace, by_clique)
    weights = checkpoint.weights.with_tensors(tensors)
    permuted = copy.deepcopy(model)
    put_tensors(permuted, {n: t.float() for n, t in weights.tensors.items()}, strict=False)
    error = _checked(model, permuted, checkpoint, inputs)
    return Permuted(weights, permuted, orders, error)


def check_trace(checkpoint: Checkpoint, trace: Trace, seed: int = 0) -> None:
    """Make sure that channels of every clique may change places, by a permutation at random.

    Where this holds, what a trace says is tied is all that is tied.

    Raises:
        NeumetaError: the network then computes something else.

    """
    rng = np.random.default_rng(seed)
    orders = {
        c.name: np.concatenate(
            [start + rng.permutation(c.channels) for start in range(0, c.rows, c.channels)]
        )
        for c in trace.cliques
    }
    permuted = copy.deepcopy(checkpoint.model)
    tensors = permute_tensors(permuted, permuted.state_dict(), trace, orders)
    put_tensors(permuted, tensors)
    _checked(checkpoint.model, permuted, checkpoint, None)


def _checked(
    before: nn.Module, after: nn.Module, checkpoint: Checkpoint, inputs: Inputs | None
) -> float:
    given = checkpoint.input_size if inputs is None else inputs
    error = invariance_error(before, after, given)
    if not error < EXACT and not invariance_error(before, before, given) < EXACT:
        raise NeumetaError(
            f"{checkpoint.arch.name} gives other outputs each time that it runs, also in "
            "evaluation mode, so that a permutation cannot be checked (such as F.dropout(x), which "
            "needs training=self.training)"
        )
    if not error < EXACT:
        raise NeumetaError(
            f"the permuted network computes something else (relative difference {error:.1e}); "
            f"nothing was written; please report this architecture ({checkpoint.arch.name})"
        )
    return error
