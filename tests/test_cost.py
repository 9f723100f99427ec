"""What networks cost is counted as PyTorch's own counter does, without its compiler."""

import math
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neumeta_cli import measure_cost
from neumeta_cli.resize.cost import costs_nothing
from neumeta_cli.trace import Inputs, meta_inputs, on_meta


def macs_of_torch(model: nn.Module, inputs: Inputs) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        args, kwargs = meta_inputs(model, inputs, batch=1)
        on_meta(model)(*args, **kwargs)
    return counter.get_total_flops() // 2


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(5, 7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (lambda: timm.create_model("mobilenetv3_small_050"), (3, 64, 64)),
        (lambda: timm.create_model("test_vit"), (3, 160, 160)),
        (lambda: timm.create_model("xcit_nano_12_p16_224"), (3, 224, 224)),
        (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 9, 9)),
        (lambda: nn.Conv1d(4, 6, 3, groups=2), (4, 9)),
        (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (4, 8)),
        (Recurrent, (5,)),
        (lambda: nn.MultiheadAttention(8, 2), (torch.empty(4, 1, 8),) * 3),
    ],
    ids=["mobilenet", "vit", "xcit", "transposed", "conv1d", "encoder", "lstm", "attention"],
)
@pytest.mark.parametrize("inference", [False, True])
def test_operations_are_those_that_torch_counts(
    build: Any, inputs: Inputs, inference: bool
) -> None:
    model = build().eval()
    with torch.inference_mode(inference):
        counted = measure_cost(model, inputs).macs
        assert counted == macs_of_torch(model, inputs)
    assert counted > 0


@pytest.mark.slow
def test_no_operator_that_torch_counts_is_taken_for_a_free_one() -> None:
    from torch.utils.flop_counter import flop_registry

    for op in flop_registry:
        schemas = [getattr(op, name)._schema for name in getattr(op, "overloads", list)()]
        for schema in schemas:
            assert not costs_nothing(op.__name__)
            assert sum(str(a.type) == "Tensor" for a in schema.arguments) >= 2


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2)
)
def test_a_convolution_costs_its_weight_at_each_place(
    groups: int, each: int, kernel: int, stride: int, padding: int
) -> None:
    layer = nn.Conv2d(groups * each, groups * 2, kernel, stride, padding, groups=groups)
    out = layer(torch.zeros(1, groups * each, 7, 8))
    macs = math.prod(out.shape) * each * kernel**2
    assert measure_cost(layer, (groups * each, 7, 8)).macs == macs
