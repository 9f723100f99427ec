"""Metrics, cost and latency of networks over widths, pruning beside them, and pictures."""

from neumeta_cli.evaluate.latency import BATCHES, measure_latency
from neumeta_cli.evaluate.measure import (
    CHECKPOINT,
    MANIFOLD,
    Row,
    evaluate_network,
    shown,
    sweep,
    tell,
)
from neumeta_cli.evaluate.plots import plot_graph, plot_over_gamma, plot_permutation, save_figure
from neumeta_cli.evaluate.prune import L1_PRUNING, prune_l1
from neumeta_cli.evaluate.records import FitCost, FitTable, Record, RowRecord, TotalVariation

__all__ = [
    "BATCHES",
    "CHECKPOINT",
    "L1_PRUNING",
    "MANIFOLD",
    "FitCost",
    "FitTable",
    "Record",
    "Row",
    "RowRecord",
    "TotalVariation",
    "evaluate_network",
    "measure_latency",
    "plot_graph",
    "plot_over_gamma",
    "plot_permutation",
    "prune_l1",
    "save_figure",
    "shown",
    "sweep",
    "tell",
]
