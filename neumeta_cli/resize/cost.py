"""What a network costs to store and to run."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from neumeta_cli.trace import meta_input, on_meta


@dataclass(frozen=True)
class Cost:
    """Parameters, multiply-accumulates of one input, and bytes of the weights as stored."""

    parameters: int
    macs: int
    bytes: int


def measure_cost(model: nn.Module, input_size: Sequence[int]) -> Cost:
    """Count on meta tensors; nothing is computed.

    Args:
        model: any network of one input.
        input_size: (C, H, W).

    """
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        on_meta(model)(meta_input(model, input_size, batch=1))
    tensors = model.state_dict().values()
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        macs=counter.get_total_flops() // 2,
        bytes=sum(t.numel() * t.element_size() for t in tensors),
    )
