"""A network at the sizes that a file says it was narrowed to."""

from torch import nn

from neumeta_cli.checkpoint import Cut
from neumeta_cli.resize.frame import open_folded


def cut_down(model: nn.Module, cut: Cut) -> nn.Module:
    """The structure of a network after a cut, on the meta device; tables keep their values.

    Args:
        model: the network before it; it may be folded in place.
        cut: which sizes it gets.

    Raises:
        ValueError: its sizes or blocks are none of this network.

    """
    frame = open_folded(model, cut.input_size, cut.heads, cut.fold)
    if cut.sizes.keys() - {clique.name for clique in frame.trace.cliques}:
        raise ValueError("its sizes are no channels of its architecture's cliques")
    return frame.without(cut.dropped).longer(cut.added).skeleton(cut.sizes).eval()
