from .channels import count_channels as count_channels
from .graph import plot_graph as plot_graph
from .latency import BATCHES as BATCHES, measure_latency as measure_latency
from .measure import (
    CHECKPOINT as CHECKPOINT,
    MANIFOLD as MANIFOLD,
    Look as Look,
    Row as Row,
    evaluate_network as evaluate_network,
    shown as shown,
    sweep as sweep,
    tell as tell,
    unseen as unseen,
)
from .plots import (
    plot_over_gamma as plot_over_gamma,
    plot_permutation as plot_permutation,
    save_both as save_both,
    save_figure as save_figure,
)
from .prune import L1_PRUNING as L1_PRUNING, prune_l1 as prune_l1
from .records import (
    Channels as Channels,
    ChannelsRow as ChannelsRow,
    FitCost as FitCost,
    FitTable as FitTable,
    Record as Record,
    RowRecord as RowRecord,
    Similarity as Similarity,
    TotalVariation as TotalVariation,
)
from .likeness import (
    Likeness as Likeness,
    Observed as Observed,
    feature_layer as feature_layer,
    linear_cka as linear_cka,
    observe as observe,
    output_divergence as output_divergence,
    similarity as similarity,
)
