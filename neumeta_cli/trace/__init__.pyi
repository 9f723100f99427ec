from .cliques import Clique as Clique, Member as Member, Patch as Patch, Trace as Trace
from .fast_shapes import FastShapes as FastShapes
from .inputs import (
    BATCH as BATCH,
    Inputs as Inputs,
    describe as describe,
    meta_inputs as meta_inputs,
    random_inputs as random_inputs,
)
from .recorder import Operator as Operator, Refusal as Refusal, module_names as module_names
from .trace import on_meta as on_meta, trace_model as trace_model
