"""What a network costs to store and to run."""

from dataclasses import dataclass

import torch
from torch import nn

from neumeta_cli.trace import Inputs, meta_inputs, on_meta


@dataclass(frozen=True)
class Cost:
    """Parameters, multiply-accumulates of one input, and bytes of the weights as stored."""

    parameters: int
    macs: int
    bytes: int


def measure_cost(model: nn.Module, inputs: Inputs) -> Cost:
    """Count on meta tensors; nothing is computed.

    Args:
        model: any network.
        inputs: the size of its input, (C, H, W), or example tensors.

    """
    from torch.utils.flop_counter import FlopCounterMode  # which imports Triton where it can

    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        args, kwargs = meta_inputs(model, inputs, batch=1)
        on_meta(model)(*args, **kwargs)
    tensors = model.state_dict().values()
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        macs=counter.get_total_flops() // 2,
        bytes=sum(t.numel() * t.element_size() for t in tensors),
    )
