"""Tracing: which dimension of which weight is tied to which, from one run on meta tensors."""

import copy
from collections.abc import Sequence

from torch import nn

from neumeta_cli.trace.cliques import Clique, Member, Trace, find_cliques
from neumeta_cli.trace.recorder import Refusal, meta_input, record


def trace_model(model: nn.Module, input_size: Sequence[int]) -> Trace:
    """Trace a network into its dependency graph (the paper: intra-model smoothness).

    No weights are allocated: the network is copied to the meta device.

    Args:
        model: any module whose forward takes one tensor.
        input_size: shape of one input without the batch dimension.

    Raises:
        NeumetaError: the network does not run on such an input.

    """
    recording = record(on_meta(model), input_size)
    return Trace(
        recording.graph,
        find_cliques(recording),
        recording.shapes,
        tuple(recording.refusals),
        tuple(recording.output_shapes),
    )


def on_meta(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in evaluation mode without weights."""
    memo = {
        id(t): nn.Parameter(t.detach().to("meta"), requires_grad=False)
        if isinstance(t, nn.Parameter)
        else t.to("meta")
        for t in (*model.parameters(), *model.buffers())
    }
    return copy.deepcopy(model, memo).eval()


__all__ = ["Clique", "Member", "Refusal", "Trace", "meta_input", "on_meta", "trace_model"]
