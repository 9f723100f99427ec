"""Pictures of a comparison, from the numbers of its JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from neumeta_cli.tasks import Metric

SMALL, WIDE = (6.4, 4.0), (9.6, 4.0)
MARKERS = "o^vDPX*<>hps"
PRUNING = tuple(c + bn for c in ("l1", "l2", "taylor", "hessian", "random") for bn in ("", "_bn"))


def metrics_of(document: Mapping[str, Any]) -> list[Metric]:
    """The metrics that a comparison measured; the first is the one that it goes by."""
    return [Metric(**known) for known in document["metrics"]]


def deviation(row: Mapping[str, Any], metric: Metric) -> float | None:
    """Standard deviation over seeds, where there are several."""
    found: float | None = row.get("deviations", {}).get(metric.name)
    return found


def _style(number: int, method: str) -> dict[str, Any]:
    ours = method == "neumeta"
    return {
        "linestyle": "--" if method in PRUNING else "-",
        "color": matplotlib.colormaps["tab20"](number % 20),
        "marker": MARKERS[number % len(MARKERS)],
        "linewidth": 2.2 if ours else 1.1,
        "markersize": 5 if ours else 4,
        "zorder": 5 if ours else 3,
    }


def metric_over_gamma(document: Mapping[str, Any]) -> Figure:
    """The metric over γ, means with standard deviations; the trained range is shaded."""
    figure = Figure(figsize=WIDE, layout="constrained")
    axes = figure.add_subplot()
    low, high = document["recipe"]["fit"]["gamma"]
    axes.axvspan(100 * low, 100 * high, color="0.93", label="trained range", zorder=0)
    metric = metrics_of(document)[0]
    whole = metric.scale * document["checkpoint"]["metrics"][metric.name]
    axes.axhline(whole, color="0.4", linestyle=":", label="checkpoint")
    for number, entry in enumerate(document["methods"]):
        rows = entry["rows"]
        axes.errorbar(
            [100 * r["gamma"] for r in rows],
            [metric.scale * r["metrics"][metric.name] for r in rows],
            [metric.scale * (deviation(r, metric) or 0) for r in rows],
            label=entry["label"],
            capsize=2,
            **_style(number, entry["method"]),
        )
    axes.set_xlabel("compression ratio γ of the channels in scope (%); unshaded: never trained")
    _finish(axes, document)
    return figure


def metric_over_cost(document: Mapping[str, Any]) -> Figure:
    """The metric over MACs, and over latency at batch 1 where it was measured."""
    latency = {round(r["gamma"], 6): r for r in document.get("latency", [])}
    figure = Figure(figsize=WIDE, layout="constrained")
    metric = metrics_of(document)[0]
    panels = [("MACs (millions)", lambda r: r["macs"] / 1e6)]
    if latency:
        panels.append(
            (
                "latency, batch 1 (ms)",
                lambda r: 1000 * latency[round(r["gamma"], 6)]["seconds_batch_1"],
            )
        )
    for place, (title, cost) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        for number, entry in enumerate(document["methods"]):
            points = sorted(
                (cost(r), metric.scale * r["metrics"][metric.name]) for r in entry["rows"]
            )
            style = _style(number, entry["method"])
            axes.plot(*zip(*points, strict=True), label=entry["label"], **style)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(title)
        _finish(axes, document, legend=place == len(panels))
    return figure


def total_variation(document: Mapping[str, Any]) -> Figure:
    """Total variation of each clique before and after permuting."""
    items = list(document["total_variation"].items())
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


def loss_curves(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Mean loss of each epoch for everything that was fitted."""
    figure = Figure(figsize=WIDE, layout="constrained")
    axes = figure.add_subplot()
    for number, (name, records) in enumerate(curves.items()):
        epochs = [r["epoch"] for r in records]
        style = _style(number, name) | {"marker": "o" if len(records) == 1 else None}
        axes.plot(epochs, [r["loss"] for r in records], label=name, **style)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return figure


def cka_curves(document: Mapping[str, Any]) -> Figure:
    """Linear CKA of each width's features with the checkpoint's."""
    figure = Figure(figsize=WIDE, layout="constrained")
    axes = figure.add_subplot()
    for number, entry in enumerate(with_similarity(document)):
        found = entry["similarity"]
        pairs = zip(found["gammas"][1:], found["cka"][1:], strict=True)
        points = [(100 * gamma, value) for gamma, value in pairs]
        style = _style(number, entry["method"])
        axes.plot(*zip(*points, strict=True), label=entry["label"], **style)
    axes.set_xlabel("compression ratio γ (%)")
    axes.set_ylabel("linear CKA with the checkpoint")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return figure


def divergence_maps(document: Mapping[str, Any], shown: Sequence[str]) -> Figure:
    """KL divergence of outputs between all widths, one map a method, in one scale."""
    known = [e for e in with_similarity(document) if "kl" in e["similarity"]]
    entries = [e for e in known if e["method"] in shown] or known[:3]
    largest = max(float(np.max(e["similarity"]["kl"])) for e in entries) or 1.0
    figure = Figure(figsize=(3.4 * len(entries) + 0.8, 3.6), layout="constrained")
    panels = []
    for place, entry in enumerate(entries, start=1):
        axes = figure.add_subplot(1, len(entries), place)
        panels.append(axes)
        values = np.array(entry["similarity"]["kl"])
        image = axes.imshow(values, cmap="viridis", vmin=0, vmax=largest)
        labels = ["checkpoint" if g is None else f"{g:.0%}" for g in entry["similarity"]["gammas"]]
        axes.set_xticks(range(len(labels)), labels, fontsize=7, rotation=30)
        axes.set_yticks(range(len(labels)), labels, fontsize=7)
        for row, column in np.ndindex(values.shape):
            colour = "white" if values[row, column] < 0.6 * largest else "black"
            text = f"{values[row, column]:.2f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
        axes.set_title(entry["label"], fontsize=9)
    figure.colorbar(image, ax=panels, shrink=0.8, label="KL(row ‖ column)")
    return figure


def with_similarity(document: Mapping[str, Any]) -> list[Any]:
    """The methods whose networks were compared with the checkpoint."""
    return [e for e in document["methods"] if len(e.get("similarity", {}).get("gammas", [])) > 1]


def _finish(axes: Any, document: Mapping[str, Any], legend: bool = True) -> None:
    axes.set_ylabel(metrics_of(document)[0].axis)
    axes.set_title(
        f"{document['recipe']['name']}, scope {document['recipe']['scope']}", fontsize=10
    )
    axes.grid(alpha=0.3)
    if legend:
        beside = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
        axes.legend(fontsize=7, framealpha=0.9, **beside)
