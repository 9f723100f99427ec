"""That everything a network needs is on one device, tried on a GPU that torch makes believe."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from neumeta_cli.checkpoint import Arch
from neumeta_cli.manifold import Manifold, build_manifold
from neumeta_cli.manifold.inr import inr_settings
from neumeta_cli.manifold.settings import NoiseSection

SMALL = {"img_size": 32, "num_classes": 10}
SWIN = {"patch_size": 2, "window_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4]}
NETWORKS = {  # with tables that no file holds: masks of windows, places of heads, angles
    "timm/swin_tiny_patch4_window7_224": SMALL | SWIN,
    "timm/vit_small_patch16_rope_224": SMALL
    | {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2},
    "timm/beit_base_patch16_224": SMALL
    | {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4},
    "zoo/cifar_resnet20": {},
}


@pytest.fixture
def believed() -> Iterator[None]:
    """Tensors made within are of no memory, on whatever device they say."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
    torch.__future__.set_overwrite_module_params_on_conversion(before)


def _devices(outputs: Any) -> set[str]:
    return {t.device.type for t in tree_leaves(outputs) if isinstance(t, Tensor)}


def _on_gpu(like: nn.Module) -> dict[str, Tensor]:
    state = like.state_dict()
    return {n: torch.empty(t.shape, dtype=t.dtype, device="cuda") for n, t in state.items()}


@pytest.fixture(params=NETWORKS)
def manifold(request) -> Manifold:
    arch = Arch(request.param, NETWORKS[request.param])
    inr = inr_settings(kind="selected")
    model = arch.build("cpu")
    made, _ = build_manifold(model, arch, (3, 32, 32), "all", False, inr, NoiseSection())
    return made


def test_a_network_built_of_tensors_on_a_gpu_runs_there(manifold: Manifold, believed) -> None:
    frame = manifold.frame
    for width in (1.0, 0.5):
        sizes = frame.sizes(width)
        network = frame.build(sizes, _on_gpu(frame.skeleton(sizes)))
        assert _devices([*network.parameters(), *network.buffers()]) == {"cuda"}
        assert _devices(network(torch.empty(2, 3, 32, 32, device="cuda"))) == {"cuda"}


def test_a_manifold_on_a_gpu_has_structures_for_networks_there(
    manifold: Manifold, believed
) -> None:
    sizes = manifold.frame.sizes(0.5)
    manifold.skeleton(sizes)  # kept from before
    manifold.to("cuda")
    skeleton, x = manifold.skeleton(sizes), torch.empty(2, 3, 32, 32, device="cuda")
    outputs = torch.func.functional_call(skeleton, _on_gpu(skeleton), (x,))
    assert _devices(outputs) == {"cuda"}
