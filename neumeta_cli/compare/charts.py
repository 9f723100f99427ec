"""Pictures of a comparison."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.colors
import numpy as np
from matplotlib.figure import Figure

from neumeta_cli.compare.methods import METHODS, PRUNING, NeuMeta
from neumeta_cli.compare.results import Comparison, MergedRow, MethodResult
from neumeta_cli.evaluate import Similarity, TotalVariation

# (epoch, loss) of whatever was fitted, by its method's label and which part of it
Curves = Mapping[tuple[str, str], Sequence[tuple[int, float]]]
Compared = tuple[MethodResult, Similarity]
WIDE = (9.6, 4.0)
MARKERS = "o^vDPX*<>hps"
DASHED = {method.name for method in PRUNING}
# Each method has one colour everywhere; variations of an ablation have labels of their own.
PLACES = {method.label: number for number, method in enumerate(METHODS.values())}
PALETTE = "tab20"


def colour(label: str, number: int) -> str:
    """The colour of the method with a label, ``#rrggbb``; others have one by their number."""
    shades = matplotlib.colormaps[PALETTE]
    return str(matplotlib.colors.to_hex(shades(PLACES.get(label, number) % 20)))


def _style(number: int, method: str, label: str) -> dict[str, Any]:
    ours = method == NeuMeta.name
    return {
        "linestyle": "--" if method in DASHED else "-",
        "color": colour(label, number),
        "marker": MARKERS[PLACES.get(label, number) % len(MARKERS)],
        "linewidth": 2.2 if ours else 1.1,
        "markersize": 5 if ours else 4,
        "zorder": 5 if ours else 3,
    }


def metric_over_gamma(comparison: Comparison) -> Figure:
    """The metric over γ, means with standard deviations; the trained range is shaded."""
    figure = Figure(figsize=WIDE, layout="constrained")
    axes = figure.add_subplot()
    low, high = comparison.recipe.fit.gamma
    axes.axvspan(100 * low, 100 * high, color="0.93", label="trained range", zorder=0)
    metric = comparison.metrics[0]
    whole = metric.scale * comparison.checkpoint.metrics[metric.name]
    axes.axhline(whole, color="0.4", linestyle=":", label="checkpoint")
    for number, method in enumerate(comparison.methods):
        axes.errorbar(
            [100 * row.gamma for row in method.rows],
            [metric.scale * row.metrics[metric.name] for row in method.rows],
            [metric.scale * (row.deviation(metric) or 0) for row in method.rows],
            label=method.label,
            capsize=2,
            **_style(number, method.method, method.label),
        )
    axes.set_xlabel("compression ratio γ of the channels in scope (%); unshaded: never trained")
    _finish(axes, comparison)
    return figure


def metric_over_cost(comparison: Comparison) -> Figure:
    """The metric over MACs, and over latency at batch 1 where it was measured."""
    figure = Figure(figsize=WIDE, layout="constrained")
    metric = comparison.metrics[0]
    panels: list[tuple[str, Callable[[MergedRow], float]]] = [
        ("MACs (millions)", lambda row: row.macs / 1e6)
    ]
    if comparison.latency:
        panels.append(("latency, batch 1 (ms)", lambda row: _milliseconds(comparison, row)))
    for place, (title, cost) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        for number, method in enumerate(comparison.methods):
            points = sorted(
                (cost(row), metric.scale * row.metrics[metric.name]) for row in method.rows
            )
            style = _style(number, method.method, method.label)
            axes.plot(*zip(*points, strict=True), label=method.label, **style)
        axes.set_xscale("log")
        axes.set_xlabel(title)
        _finish(axes, comparison, legend=place == len(panels))
    return figure


def _milliseconds(comparison: Comparison, row: MergedRow) -> float:
    latency = comparison.latency_at(row.gamma)
    return math.nan if latency is None else 1000 * latency.seconds_batch_1


def total_variation(variation: TotalVariation) -> Figure:
    """Total variation of each clique before and after permuting."""
    items = list(variation.items())
    figure = Figure(figsize=(WIDE[0], 1.2 + 0.24 * len(items)), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(items))
    for shift, side, label in ((0.2, 0, "as stored"), (-0.2, 1, "permuted")):
        values = [pair[side] / max(pair[0], 1e-30) for _, pair in items]
        axes.barh(places + shift, values, 0.38, label=label, color=("0.7", "tab:blue")[side])
    axes.set_yticks(places, [name for name, _ in items], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("total variation along the clique's channels, as stored = 1")
    axes.legend(fontsize=8)
    return figure


def loss_curves(curves: Curves) -> Figure:
    """Mean loss of each epoch for everything that was fitted."""
    figure = Figure(figsize=WIDE, layout="constrained")
    axes = figure.add_subplot()
    for number, ((method, part), points) in enumerate(curves.items()):
        style = _style(number, "", method) | {"marker": "o" if len(points) == 1 else None}
        axes.plot(*zip(*points, strict=True), label=f"{method}{part}", **style)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return figure


def cka_curves(compared: Sequence[Compared]) -> Figure:
    """Linear CKA of each width's features with the checkpoint's."""
    figure = Figure(figsize=WIDE, layout="constrained")
    axes = figure.add_subplot()
    for number, (method, found) in enumerate(compared):
        pairs = zip(found.gammas, found.cka, strict=True)
        points = [(100 * gamma, value) for gamma, value in pairs if gamma is not None]
        style = _style(number, method.method, method.label)
        axes.plot(*zip(*points, strict=True), label=method.label, **style)
    axes.set_xlabel("compression ratio γ (%)")
    axes.set_ylabel("linear CKA with the checkpoint")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return figure


def divergence_maps(compared: Sequence[Compared], shown: Sequence[str]) -> Figure:
    """KL divergence of outputs between all widths, one map a method, in one scale."""
    known = [(m, found.gammas, np.array(found.kl)) for m, found in compared if found.kl]
    return _maps(known, shown, "KL(row ‖ column)", lowest=0)


def cka_maps(compared: Sequence[Compared], shown: Sequence[str]) -> Figure:
    """Linear CKA of features between all widths, one map a method, in one scale."""
    known = [(m, f.gammas, np.array(f.cka_pairs)) for m, f in compared if f.cka_pairs]
    return _maps(known, shown, "linear CKA", lowest=None)


def _maps(
    known: Sequence[tuple[MethodResult, Sequence[float | None], np.ndarray]],
    shown: Sequence[str],
    label: str,
    lowest: float | None,
) -> Figure:
    """Numbers between all widths: the methods that are asked for, or the first three."""
    maps = [one for one in known if one[0].method in shown] or list(known[:3])
    largest = max(float(values.max()) for _, _, values in maps) or 1.0
    if lowest is None:
        lowest = min(float(values.min()) for _, _, values in maps)
    figure = Figure(figsize=(3.4 * len(maps) + 0.8, 3.6), layout="constrained")
    panels = []
    for place, (method, gammas, values) in enumerate(maps, start=1):
        axes = figure.add_subplot(1, len(maps), place)
        panels.append(axes)
        image = axes.imshow(values, cmap="viridis", vmin=lowest, vmax=largest)
        labels = ["checkpoint" if gamma is None else f"{gamma:.0%}" for gamma in gammas]
        axes.set_xticks(range(len(labels)), labels, fontsize=7, rotation=30)
        axes.set_yticks(range(len(labels)), labels, fontsize=7)
        for row, column in np.ndindex(values.shape):
            dark = values[row, column] < lowest + 0.6 * (largest - lowest)
            text = f"{values[row, column]:.2f}"
            colour = "white" if dark else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
        axes.set_title(method.label, fontsize=9)
    figure.colorbar(image, ax=panels, shrink=0.8, label=label)
    return figure


def with_similarity(comparison: Comparison) -> list[Compared]:
    """The methods whose networks were compared with the checkpoint, and what was found."""
    pairs = [(m, m.similarity) for m in comparison.methods if m.similarity is not None]
    return [(method, found) for method, found in pairs if len(found.gammas) > 1]


def _finish(axes: Any, comparison: Comparison, legend: bool = True) -> None:
    axes.set_ylabel(comparison.metrics[0].axis)
    axes.set_title(comparison.title, fontsize=10)
    axes.grid(alpha=0.3)
    if legend:
        beside = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
        axes.legend(fontsize=7, framealpha=0.9, **beside)
