"""Width sweeps, baselines and pictures."""

from neumeta_cli.evaluate.latency import BATCHES, measure_latency
from neumeta_cli.evaluate.measure import (
    CHECKPOINT,
    MANIFOLD,
    PRUNED,
    Row,
    evaluate_network,
    shown,
    sweep,
    tell,
)
from neumeta_cli.evaluate.plots import plot_graph, plot_over_gamma, plot_permutation, save_figure
from neumeta_cli.evaluate.prune import prune_l1

__all__ = [
    "BATCHES",
    "CHECKPOINT",
    "MANIFOLD",
    "PRUNED",
    "Row",
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
