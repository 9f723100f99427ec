"""Folding batch norm into the layer before it, wherever a trace shows that this is exact."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.utils import fusion

from neumeta_cli.trace import Trace

BATCH_NORM_OPS = ("_native_batch_norm_legit_no_training", "native_batch_norm")
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FOLDABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, *TRANSPOSED)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norm(model: nn.Module, norm_of: Mapping[str, str]) -> nn.Module:
    """Fold batch norms into the convolutions or linear layers before them.

    Changes ``model`` in place: the layer gains a bias, the norm becomes ``nn.Identity``. Works on
    the meta device too, where it gives the structure alone.

    Args:
        model: a network, at any width.
        norm_of: layer to the norm that alone reads its output, as ``foldable_pairs`` finds them.

    """
    for layer, norm in norm_of.items():
        first: Any = model.get_submodule(layer)
        second: Any = model.get_submodule(norm)
        if isinstance(first, nn.Linear):
            fused = fusion.fuse_linear_bn_eval(first, second)
        else:
            fused = fusion.fuse_conv_bn_eval(first, second, isinstance(first, TRANSPOSED))
        model.set_submodule(layer, fused.requires_grad_(False))
        model.set_submodule(norm, nn.Identity())
    return model.eval()


def foldable_pairs(model: nn.Module, trace: Trace) -> list[tuple[str, str]]:
    """Names of (layer, norm) modules that run once each, the norm alone reading the layer."""
    runs: dict[str, int] = {}
    for _, node in trace.graph.nodes(data=True):
        if node["weights"]:
            runs[node["module"]] = runs.get(node["module"], 0) + 1
    pairs = []
    for number, node in trace.graph.nodes(data=True):
        before = list(trace.graph.predecessors(number))
        if node["op"] not in BATCH_NORM_OPS or len(before) != 1:
            continue
        layer, norm = trace.graph.nodes[before[0]]["module"], node["module"]
        alone = trace.graph.out_degree(before[0]) == 1
        once = runs.get(layer) == 1 and runs.get(norm) == 1
        kinds = (
            _is_foldable(model.get_submodule(layer))
            and type(model.get_submodule(norm)) in BATCH_NORMS
        )
        if alone and once and kinds:
            pairs.append((layer, norm))
    return pairs


def _is_foldable(layer: nn.Module) -> bool:
    """Whether torch folds a norm into such a layer; it takes transposed groups for one group."""
    if isinstance(layer, TRANSPOSED) and layer.groups > 1:
        return False
    return type(layer) in FOLDABLE
