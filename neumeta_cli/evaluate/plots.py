"""Pictures: a metric over γ, and a network's operators and cliques."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neumeta_cli.checkpoint import write_atomically
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate.measure import CHECKPOINT, MANIFOLD, Row
from neumeta_cli.evaluate.prune import L1_PRUNING
from neumeta_cli.tasks import Metric
from neumeta_cli.trace import Trace

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg", ".pdf")
DPI = 150
HELD, HELD_LABEL = "#e05050", "held: cannot change"
REDS = (6, 7)  # of that palette, which are kept for what is held
MOST_IN_LEGEND = 18  # cliques; there are so many other colours
STYLES = {MANIFOLD: ("o-", "tab:blue"), L1_PRUNING: ("s--", "tab:red")}  # as comparisons have them


def plot_over_gamma(
    rows: Sequence[Row], metric: Metric, path: Path, trained: tuple[float, float], title: str
) -> Path:
    """Draw a metric over γ for each method, the trained range shaded.

    Args:
        rows: of the sweep.
        metric: which.
        path: ``.png``, ``.svg`` or ``.pdf``.
        trained: range of γ that the fit saw.
        title: above the picture.

    """
    figure, axes = _canvas(path, (6.4, 4.0))
    axes.axvspan(100 * trained[0], 100 * trained[1], color="0.93", label="trained range", zorder=0)
    for method in dict.fromkeys(row.method for row in rows):
        own = sorted((r for r in rows if r.method == method), key=lambda r: r.gamma)
        gammas = [100 * r.gamma for r in own]
        values = [metric.scale * r.metrics[metric.name] for r in own]
        if method == CHECKPOINT:
            axes.axhline(values[0], color="0.4", linestyle=":", label=method)
        else:
            style, colour = STYLES.get(method, ("d-", "tab:green"))
            axes.plot(gammas, values, style, color=colour, label=method)
    axes.set_xlabel("compression ratio γ of the channels in scope (%)")
    axes.set_ylabel(metric.axis)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(framealpha=0.9)
    return save_figure(figure, path)


def plot_graph(trace: Trace, path: Path) -> Path:
    """Draw the operators with weights, top to bottom, coloured by the clique of their outputs.

    Each says how many channels it makes; those of cliques that are held are red.
    """
    import networkx as nx

    of_output = {
        member.weight: number
        for number, clique in enumerate(trace.cliques)
        for member in clique.members
        if member.dim == 0
    }
    graph = _weighted_operators(trace.graph)
    for layer, generation in enumerate(nx.topological_generations(graph)):
        for node in generation:
            graph.nodes[node]["layer"] = layer
    raw = nx.multipartite_layout(graph, subset_key="layer", align="horizontal")
    place = {node: (2.5 * float(x), -float(y)) for node, (x, y) in raw.items()}
    layers = 1 + max((d["layer"] for _, d in graph.nodes(data=True)), default=0)
    figure, axes = _canvas(path, (8.0, max(3.0, 0.34 * layers)))
    import matplotlib
    from matplotlib.patches import Patch

    shades = matplotlib.colormaps["tab20"]
    palette = [shades(number) for number in range(20) if number not in REDS]
    legend: dict[str, Any] = {}
    for node, data in graph.nodes(data=True):
        clique = next((of_output[w] for w in data["weights"] if w in of_output), None)
        colour: Any = "0.85"
        text = data["module"] or data["op"]
        if clique is not None:
            found = trace.cliques[clique]
            colour = HELD if found.held else palette[clique % len(palette)]
            text = f"{text}  {found.copies * found.channels}"
            legend.setdefault(HELD_LABEL if found.held else found.name, colour)
        axes.annotate(
            text,
            place[node],
            ha="center",
            va="center",
            fontsize=6,
            bbox={"boxstyle": "round,pad=0.25", "facecolor": colour, "edgecolor": "0.4"},
        )
    for a, b in graph.edges:
        axes.annotate(
            "",
            xy=place[b],
            xytext=place[a],
            zorder=0,
            arrowprops={"arrowstyle": "-", "color": "0.6", "connectionstyle": "arc3,rad=0.12"},
        )
    xs, ys = zip(*place.values(), strict=True)
    axes.set_xlim(min(xs) - 0.3, max(xs) + 0.3)
    axes.set_ylim(min(ys) - 0.05, max(ys) + 0.05)
    axes.axis("off")
    shown = [Patch(facecolor=colour, label=name) for name, colour in legend.items()]
    if len(shown) > MOST_IN_LEGEND:
        rest = f"{len(shown) - MOST_IN_LEGEND} more cliques"
        shown = [*shown[:MOST_IN_LEGEND], Patch(facecolor="none", label=rest)]
    if shown:
        axes.legend(handles=shown, fontsize=6, loc="upper left", title="clique", title_fontsize=6)
    return save_figure(figure, path)


def plot_permutation(before: Any, after: Any, path: Path, title: str) -> Path:
    """Draw a weight matrix as an image before and after permutation, both (channels, values)."""
    _check_ending(path)
    return save_figure(weight_matrices(before, after, title), path)


def weight_matrices(before: Any, after: Any, title: str) -> "Figure":
    """A weight as an image (output channel, input channel), before and after permutation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.0), layout="constrained")
    limit = float(abs(before).max()) * 0.5 or 1.0
    for place, (values, name) in enumerate(((before, "as stored"), (after, "permuted")), start=1):
        axes = figure.add_subplot(1, 2, place)
        axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", rasterized=True)
        axes.set_title(f"{title}, {name}", fontsize=9)
        axes.set_xlabel("input channel")
        axes.set_ylabel("output channel")
    return figure


def _weighted_operators(graph: "nx.DiGraph") -> "nx.DiGraph":
    """Operators that read weights, and sums and concatenations; the others are bridged over."""
    small = graph.copy()
    for node in graph.nodes:  # a product takes over the weight that was transposed for it
        if graph.nodes[node]["op"] in ("t", "transpose"):
            for reader in graph.successors(node):
                small.nodes[reader]["weights"] = [
                    *graph.nodes[node]["weights"],
                    *small.nodes[reader]["weights"],
                ]
    for node in list(graph.nodes):
        data = graph.nodes[node]
        joins = data["op"] in ("add", "add_", "cat", "mul") and graph.in_degree(node) > 1
        turned = data["op"] in ("t", "transpose")  # a linear layer's weight, on its way there
        if (data["weights"] or joins) and not turned:
            if joins and not data["weights"]:
                small.nodes[node]["module"] = data["op"].rstrip("_")
            continue
        small.add_edges_from(
            (a, b) for a in small.predecessors(node) for b in small.successors(node)
        )
        small.remove_node(node)
    return small


def _canvas(path: Path, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    _check_ending(path)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def _check_ending(path: Path) -> None:
    if Path(path).suffix not in PICTURES:
        raise NeumetaError(f"cannot draw {path}: use one of the endings {', '.join(PICTURES)}")


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write a picture; its ending says in which format.

    Raises:
        NeumetaError: an ending that is none of ``.png``, ``.svg`` and ``.pdf``.

    """
    import matplotlib

    _check_ending(path)
    # Without dates a picture changes only when what it shows does.
    metadata = {"Date": None} if Path(path).suffix == ".svg" else None
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "neumeta"}):
        return write_atomically(path, lambda p: figure.savefig(p, dpi=DPI, metadata=metadata))
