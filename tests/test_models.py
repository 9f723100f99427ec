"""Tracing, permuting and resizing of networks from timm and torchvision.

The benchmark ``tests/benchmarks/coverage.py`` asks the same of one model of every family.
"""

from pathlib import Path

import pytest
import torch
from model_checks import permutation_error, randomise, resize

from neumeta_cli.checkpoint import Arch
from neumeta_cli.trace import trace_model

pytestmark = pytest.mark.slow

# name, input size, smallest share of weights in cliques, largest share of parameters at width 0.5
MODELS = [
    ("timm/test_resnet", (3, 64, 64), 0.99, 0.4),
    ("timm/test_vit", (3, 160, 160), 0.99, 0.4),
    ("timm/test_vit_relpos", (3, 160, 160), 0.99, 0.4),
    ("timm/test_byobnet", (3, 64, 64), 0.99, 0.4),
    ("timm/test_convnext", (3, 64, 64), 0.99, 0.4),
    ("timm/test_nfnet", (3, 64, 64), 0.99, 0.4),
    ("timm/test_coatnet", (3, 160, 160), 0.99, 0.4),
    ("timm/test_mambaout", (3, 64, 64), 0.99, 0.41),
    ("timm/mobilenetv3_small_050", (3, 64, 64), 0.99, 0.42),
    ("timm/ghostnet_050", (3, 64, 64), 0.99, 0.4),
    ("timm/regnetx_002", (3, 64, 64), 0.99, 0.4),
    ("timm/skresnet18", (3, 64, 64), 0.99, 0.4),
    ("timm/resnest14d", (3, 64, 64), 0.99, 0.4),
    ("timm/fasternet_t0", (3, 64, 64), 0.99, 0.4),
    ("timm/inception_next_atto", (3, 64, 64), 0.99, 0.4),
    ("timm/levit_128s", (3, 224, 224), 0.99, 0.4),
    ("timm/edgenext_xx_small", (3, 128, 128), 0.99, 0.7),  # less ran at few widths
    ("timm/mobilevit_xxs", (3, 128, 128), 0.99, 0.4),
    ("timm/pvt_v2_b0", (3, 128, 128), 0.99, 0.4),
    ("timm/pit_ti_224", (3, 224, 224), 0.99, 0.4),
    ("timm/xcit_nano_12_p8_224", (3, 64, 64), 0.99, 0.4),
    ("timm/swin_tiny_patch4_window7_224", (3, 224, 224), 0.99, 0.4),
    ("timm/cait_xxs24_224", (3, 224, 224), 0.99, 0.4),
    ("torchvision/shufflenet_v2_x0_5", (3, 64, 64), 0.99, 1.0),
    ("torchvision/regnet_x_400mf", (3, 64, 64), 0.99, 0.4),  # does not build on meta tensors
    ("torchvision/mnasnet0_5", (3, 64, 64), 0.99, 0.45),
    ("torchvision/googlenet", (3, 64, 64), 0.99, 0.4),
    ("torchvision/lraspp_mobilenet_v3_large", (3, 64, 64), 0.99, 0.4),
]


FEWER_BLOCKS = {
    "timm/cait_xxs24_224": {"depth": 4},
    "timm/xcit_nano_12_p8_224": {"depth": 3},
    "timm/swin_tiny_patch4_window7_224": {"depths": (2, 2, 2, 2)},
}


@pytest.mark.parametrize(("name", "size", "share", "left"), MODELS, ids=[m[0] for m in MODELS])
def test_any_network(
    name: str, size: tuple[int, int, int], share: float, left: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = randomise(Arch(name, FEWER_BLOCKS.get(name, {})).build("cpu"))
    trace = trace_model(model, size)
    assert trace.share_governed() > share
    assert not trace.refusals
    error, moved = permutation_error(model, trace, size)
    assert error < 1e-9
    assert moved > share - 0.01
    resized = resize(model, trace, size, tmp_path / "half.safetensors")
    assert resized.parameters_left < left
    assert resized.same_outputs
    assert resized.reloads
    assert resized.exact_at_full
