"""Networks at other widths: shapes and attributes, batch-norm folding, cost."""

from neumeta_cli.resize.adapt import resizable
from neumeta_cli.resize.cost import Cost, measure_cost
from neumeta_cli.resize.fold import fold_batch_norm, foldable_pairs
from neumeta_cli.resize.frame import Frame, Sizes, Width, open_frame
from neumeta_cli.resize.layouts import Layout, weight_layouts
from neumeta_cli.resize.network import (
    build_resized,
    resize_model,
    resized_shapes,
)
from neumeta_cli.resize.norms import calibrate, drop_statistics, has_statistics
from neumeta_cli.resize.scope import resolve_scope
from neumeta_cli.resize.select import kept_places, place_channels, rank_channels, select_channels
from neumeta_cli.resize.sizes import channels_at, check_width, linked_cliques, sizes_at

__all__ = [
    "Cost",
    "Frame",
    "Layout",
    "Sizes",
    "Width",
    "build_resized",
    "calibrate",
    "channels_at",
    "check_width",
    "drop_statistics",
    "fold_batch_norm",
    "foldable_pairs",
    "has_statistics",
    "kept_places",
    "linked_cliques",
    "measure_cost",
    "open_frame",
    "place_channels",
    "rank_channels",
    "resizable",
    "resize_model",
    "resized_shapes",
    "resolve_scope",
    "select_channels",
    "sizes_at",
    "weight_layouts",
]
