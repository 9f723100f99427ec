"""Tracing: which dimension of which weight is tied to which, from one run on meta tensors."""

from neumeta_cli.trace.cliques import Clique, Member, Patch, Trace
from neumeta_cli.trace.inputs import BATCH, Inputs, describe, meta_inputs, random_inputs
from neumeta_cli.trace.recorder import Refusal, module_names
from neumeta_cli.trace.trace import on_meta, trace_model

__all__ = [
    "BATCH",
    "Clique",
    "Inputs",
    "Member",
    "Patch",
    "Refusal",
    "Trace",
    "describe",
    "meta_inputs",
    "module_names",
    "on_meta",
    "random_inputs",
    "trace_model",
]
