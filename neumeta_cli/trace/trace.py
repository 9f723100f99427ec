"""From a network to its trace."""

import copy
from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from neumeta_cli.checkpoint import check_hooks, loose_tensors
from neumeta_cli.trace.cliques import (
    Trace,
    find_cliques,
    flat_and_parted,
)
from neumeta_cli.trace.inputs import Inputs
from neumeta_cli.trace.recorder import record


def trace_model(model: nn.Module, inputs: Inputs) -> Trace:
    """Trace a network into its dependency graph (the paper: intra-model smoothness).

    No weights are allocated: the network is copied to the meta device.

    Args:
        model: any module.
        inputs: the size of its input without the batch dimension, or example tensors.

    Raises:
        NeumetaError: the network does not run on such inputs, or a hook makes a weight of it.

    """
    check_hooks(model)
    recording = record(on_meta(model), inputs, _uniform_constants(model))
    cliques, equal = find_cliques(recording)
    return Trace(
        tuple(recording.operators),
        cliques,
        recording.shapes,
        tuple(recording.refusals),
        tuple(recording.output_shapes),
        recording.constant_shapes,
        equal,
        flat_and_parted(cliques),
    )


def on_meta(model: nn.Module, keep_loose: bool = False) -> nn.Module:
    """A copy of ``model`` in evaluation mode without weights.

    Args:
        model: any module.
        keep_loose: tensors that are neither parameters nor buffers keep their values, and are
            those of ``model``.

    """
    memo: dict[int, Any] = {
        id(t): nn.Parameter(t.detach().to("meta"), requires_grad=False)
        if isinstance(t, nn.Parameter)
        else t.to("meta")
        for t in (*model.parameters(), *model.buffers())
    }
    loose = [t for t in loose_tensors(model) if id(t) not in memo]
    memo |= {id(t): t if keep_loose else t.detach().to("meta") for t in loose}
    for module in model.modules():  # with a dozen empty dictionaries of hooks each, slow to copy
        own = vars(module).values()
        memo |= {id(d): OrderedDict() for d in own if type(d) is OrderedDict and not d}
    return copy.deepcopy(model, memo).eval()


def _uniform_constants(model: nn.Module) -> dict[str, list[int]]:
    """Buffers that no checkpoint holds, and the dimensions along which all slices are equal."""
    stored = model.state_dict()
    return {
        name: [d for d in range(t.dim()) if t.shape[d] > 1 and _same_slices(t, d)]
        for name, t in model.named_buffers()
        if name not in stored and not t.is_meta
    }


def _same_slices(tensor: Tensor, dim: int) -> bool:
    return bool((tensor == tensor.narrow(dim, 0, 1)).all())
