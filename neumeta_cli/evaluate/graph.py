"""A picture of a network's operators, coloured by the cliques of what they make."""

import re
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neumeta_cli.evaluate.plots import canvas, save_figure
from neumeta_cli.trace import Clique, Trace

if TYPE_CHECKING:
    import networkx as nx

HELD, HELD_LABEL = "#e05050", "held: cannot change"
REDS = (6, 7)  # of the palette tab20, which are kept for what is held
MOST_IN_LEGEND = 18  # cliques; there are so many other colours
JOINS = ("add", "add_", "cat", "mul")
TURNS = ("t", "transpose")  # a linear layer's weight, on its way there

Place = tuple[str, int]  # a block among its siblings: the name before its number, and that


def plot_graph(trace: Trace, path: Path, collapse: bool = False) -> Path:
    """Draw the operators with weights, top to bottom, coloured by the clique of their outputs.

    Each says how many channels it makes (3×64: in each of three heads); those of cliques that are
    held are red.

    Args:
        trace: of the network.
        path: ``.png``, ``.svg`` or ``.pdf``.
        collapse: draw blocks in a row that are alike once, with their number.

    """
    import networkx as nx

    graph = _weighted_operators(trace)
    if collapse:
        graph = _collapsed(graph)
    for layer, generation in enumerate(nx.topological_generations(graph)):
        for node in generation:
            graph.nodes[node]["layer"] = layer
    raw = nx.multipartite_layout(graph, subset_key="layer", align="horizontal")
    place = {node: (2.5 * float(x), -float(y)) for node, (x, y) in raw.items()}
    layers = 1 + max((d["layer"] for _, d in graph.nodes(data=True)), default=0)
    figure, axes = canvas(path, (8.0, max(3.0, 0.34 * layers)))
    import matplotlib
    from matplotlib.patches import Patch

    shades = matplotlib.colormaps["tab20"]
    palette = [shades(number) for number in range(20) if number not in REDS]
    numbers = {clique.name: number for number, clique in enumerate(trace.cliques)}
    legend: dict[str, Any] = {}
    for node, data in graph.nodes(data=True):
        found: Clique | None = data["clique"]
        colour: Any = "0.85"
        if found is not None:
            colour = HELD if found.held else palette[numbers[found.name] % len(palette)]
            legend.setdefault(HELD_LABEL if found.held else found.name, colour)
        axes.annotate(
            data["text"] + (f"  ×{data['times']}" if data["times"] > 1 else ""),
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
        rest = f"{len(shown) - MOST_IN_LEGEND:,} more cliques"
        shown = [*shown[:MOST_IN_LEGEND], Patch(facecolor="none", label=rest)]
    if shown:
        axes.legend(handles=shown, fontsize=6, loc="upper left", title="clique", title_fontsize=6)
    return save_figure(figure, path)


def _weighted_operators(trace: Trace) -> "nx.DiGraph":
    """Operators that read weights, and sums and concatenations; the others are bridged over.

    Each node has the ``clique`` of what it makes (None for those of no clique), the ``text`` that
    stands for it, the ``module`` that it ran in, and ``times`` 1.
    """
    whole = trace.graph
    small = whole.copy()
    for node, data in whole.nodes(data=True):  # a product takes over the weight turned for it
        if data["op"] in TURNS:
            for reader in whole.successors(node):
                small.nodes[reader]["weights"] = [
                    *data["weights"],
                    *small.nodes[reader]["weights"],
                ]
    made_by: dict[str, Clique] = {}
    for clique in sorted(trace.cliques, key=lambda clique: clique.order_only):
        for member in clique.members:
            if member.dim == 0:
                made_by.setdefault(member.weight, clique)
    for node in whole:
        data = small.nodes[node]
        joins = data["op"] in JOINS and whole.in_degree(node) > 1
        if (data["weights"] or joins) and data["op"] not in TURNS:
            data.update(_shown(data, made_by))
            continue
        small.add_edges_from(
            (a, b) for a in small.predecessors(node) for b in small.successors(node)
        )
        small.remove_node(node)
    return small


def _shown(data: Mapping[str, Any], made_by: Mapping[str, Clique]) -> dict[str, Any]:
    """What a picture shows of an operator."""
    clique = next((made_by[w] for w in data["weights"] if w in made_by), None)
    module = data["module"] if data["weights"] else ""
    text = module or data["op"].rstrip("_")
    if clique is not None:
        heads = f"{clique.copies}×" if clique.copies > 1 else ""  # of so many channels each
        text = f"{text}  {heads}{clique.channels}"
    return {"clique": clique, "text": text, "times": 1}


def _collapsed(graph: "nx.DiGraph") -> "nx.DiGraph":
    """The graph with blocks in a row that are alike as one, outer blocks before those in them."""
    import networkx as nx

    depth = 0
    while any(len(d["module"].split(".")) > depth for _, d in graph.nodes(data=True)):
        for run in _runs(graph, depth):
            smaller = _as_one(graph, run)
            # Blocks of two lists that take turns would follow one another in a circle.
            graph = smaller if nx.is_directed_acyclic_graph(smaller) else graph
        depth += 1
    return graph


def _runs(graph: "nx.DiGraph", depth: int) -> list[list[list[Any]]]:
    """Runs of like blocks whose numbers are in the ``depth``-th part of their names."""
    blocks: dict[Place, list[Any]] = {}
    for node, data in graph.nodes(data=True):
        found = _block(data["module"], depth)
        if found is not None:
            blocks.setdefault(found, []).append(node)
    runs = []
    for _, siblings in groupby(sorted(blocks), key=lambda place: place[0]):
        row = [blocks[place] for place in siblings]
        for _, alike in groupby(row, key=lambda nodes: _signature(graph, nodes, depth)):
            found_run = list(alike)
            if len(found_run) > 1:
                runs.append(found_run)
    return runs


def _block(module: str, depth: int) -> Place | None:
    """The block that a module lies in: ``layer1.0.conv1`` in ("layer1.", 0) at depth 1."""
    parts = module.split(".")
    numbered = re.fullmatch(r"(.*?)(\d+)", parts[depth]) if depth < len(parts) else None
    if numbered is None:
        return None
    return ".".join([*parts[:depth], numbered[1]]), int(numbered[2])


def _signature(graph: "nx.DiGraph", nodes: list[Any], depth: int) -> Any:
    """What like blocks have in common: their operators, channels, what is held, and edges."""
    places = {node: place for place, node in enumerate(nodes)}
    told = []
    for node in nodes:
        data, clique = graph.nodes[node], graph.nodes[node]["clique"]
        inside = tuple(data["module"].split(".")[depth + 1 :])
        channels = None if clique is None else (clique.channels, clique.copies, bool(clique.held))
        told.append((inside, data["op"], data["shape"], channels, data["times"]))
    edges = [(places[a], places[b]) for a, b in graph.subgraph(nodes).edges]
    return told, sorted(edges)


def _as_one(graph: "nx.DiGraph", run: list[list[Any]]) -> "nx.DiGraph":
    """The graph with the first of these blocks for all of them."""
    import networkx as nx

    first, block_of = {}, {}
    for number, nodes in enumerate(run):
        for node, stands in zip(nodes, run[0], strict=True):
            first[node], block_of[node] = stands, number
    small = nx.DiGraph()
    for node, data in graph.nodes(data=True):
        if block_of.get(node, 0) == 0:
            times = data["times"] * (len(run) if node in first else 1)
            small.add_node(node, **(data | {"times": times}))
    for a, b in graph.edges:
        between = a in first and b in first and block_of[a] != block_of[b]
        if not between:
            small.add_edge(first.get(a, a), first.get(b, b))
    return small
