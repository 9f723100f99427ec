"""Networks at other widths: shapes and attributes, batch-norm folding, cost."""

from neumeta_cli.resize.cost import Cost, measure_cost
from neumeta_cli.resize.fold import build_folded, fold_batch_norm
from neumeta_cli.resize.network import (
    build_resized,
    channels_at,
    check_width,
    resizable,
    resize_model,
    resized_shapes,
)
from neumeta_cli.resize.select import select_channels

__all__ = [
    "Cost",
    "build_folded",
    "build_resized",
    "channels_at",
    "check_width",
    "fold_batch_norm",
    "measure_cost",
    "resizable",
    "resize_model",
    "resized_shapes",
    "select_channels",
]
