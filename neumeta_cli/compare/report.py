"""One page that shows a run: tables and pictures, with nothing fetched from elsewhere."""

import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib.figure import Figure

import neumeta_cli.compare.charts as charts
from neumeta_cli.checkpoint import load_checkpoint, read_weights, write_text
from neumeta_cli.compare.explored import explored
from neumeta_cli.compare.methods import NeuMeta
from neumeta_cli.compare.results import Comparison, LatencyRow, MethodResult
from neumeta_cli.documents import read_json
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate import Record, save_figure
from neumeta_cli.evaluate.plots import weight_matrices
from neumeta_cli.runs import PAGE_FILE, PERMUTED_FILE, picture_path
from neumeta_cli.tasks import Metric
from neumeta_cli.training import METRICS_FILE

SPENT = {  # columns at the end of a table
    "seconds": "training (s)",
    "epochs": "epochs",
    "bytes": "stored (bytes)",
    "numbers": "stored numbers",
}
MAPPED_METHODS = ("neumeta", "individual", "distilled")


@dataclass(frozen=True)
class Chart:
    """A picture that is drawn for the page."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture in the page; ``source`` holds all of it, as a data URL.

    Attributes:
        folded: shown only when it is asked for.
        vector: whether it is an SVG, which the page offers to keep.

    """

    name: str
    title: str
    caption: str
    source: str
    folded: bool = False
    vector: bool = False


class Epoch(Record):
    """A line of a fit's journal; those between epochs have no loss."""

    epoch: int | None = None
    loss: float | None = None


def write_report(comparison: Comparison, run: Path, folder: Path) -> Path:
    """Write the page and its pictures, each as PNG and SVG too.

    Args:
        comparison: or a fit in the same form.
        run: the folder with its permuted checkpoint and metrics.
        folder: where to write.

    Returns:
        The page.

    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for chart in _charts(comparison, run):
        figure = chart.draw()
        save_figure(figure, folder / f"{chart.name}.png")
        figure.set_layout_engine("none")  # what is laid out once stays so
        svg = save_figure(figure, folder / f"{chart.name}.svg").read_bytes()
        source = _embedded(svg, "svg+xml")
        pictures.append(
            Picture(chart.name, chart.title, chart.caption, source, chart.folded, vector=True)
        )
    for name in comparison.pictures or []:
        kind, _, which = name.rpartition("_")
        width = which if which == "checkpoint" else f"width {which}"
        source = _embedded(picture_path(run, name).read_bytes(), "png")
        pictures.append(Picture(name, f"{kind}, {width}".capitalize(), "", source))
    environment = Environment(
        loader=PackageLoader("neumeta_cli.compare", ""), autoescape=select_autoescape(["j2"])
    )
    page = environment.get_template("report.html.j2").render(
        **_content(comparison), **explored(comparison, run), pictures=pictures, percent=_percent
    )
    return write_text(folder / PAGE_FILE, page)


def _embedded(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def clear_winner(
    methods: Sequence[MethodResult], gamma: float, images: int, metric: Metric
) -> str | None:
    """The label of the method that is best at γ by more than chance may explain, if any is.

    A difference is not called better if it is no larger than the sum of the two standard deviations
    over seeds, or, for shares, than the standard error of a difference on so many test images; nor
    is any between runs of a single seed.
    """
    sign = 1 if metric.higher_is_better else -1
    known = sorted(
        ((row, method.label) for method in methods if (row := method.at(gamma)) is not None),
        key=lambda found: -sign * found[0].metrics[metric.name],
    )
    spreads = [s for row, _ in known[:2] if (s := row.deviation(metric)) is not None]
    if len(spreads) < 2:
        return None
    first, second = (row.metrics[metric.name] for row, _ in known[:2])
    variance = (first * (1 - first) + second * (1 - second)) / images if metric.share else 0.0
    better = sign * (first - second) > max(sum(spreads), math.sqrt(variance))
    return known[0][1] if better else None


def _charts(comparison: Comparison, run: Path) -> Iterator[Chart]:
    """Those that there is something to draw for, in the order of the page."""
    metric, seeds = comparison.metrics[0], comparison.seeds
    bars = (
        f"Means of {seeds} seeds, bars of one standard deviation. " if seeds > 1 else "One seed. "
    )
    yield Chart(
        "metric_over_gamma",
        f"{metric.name} over compression",
        f"{bars} The shaded range was trained; outside it only networks that are trained "
        "alone at each width have seen that width.",
        lambda: charts.metric_over_gamma(comparison),
    )
    yield Chart(
        "metric_over_cost",
        f"{metric.name} over cost",
        "Networks of the same γ have the same shapes, and so the same MACs and latency.",
        lambda: charts.metric_over_cost(comparison),
    )
    variation = comparison.total_variation
    if variation:
        yield Chart(
            "total_variation",
            "Smoothness",
            "How much weights differ from channel to channel, as stored and permuted.",
            lambda: charts.total_variation(variation),
            folded=True,
        )
    matrices = _matrices(comparison, run)
    if matrices is not None:
        yield Chart(
            "weights",
            "Weights",
            "The last convolution's or linear layer's weight, mean over kernels.",
            lambda: matrices,
            folded=True,
        )
    curves = _curves(comparison, run)
    if curves:
        yield Chart(
            "loss",
            "Fitting",
            "Mean of each epoch, first seed; losses of different methods have other parts.",
            lambda: charts.loss_curves(curves),
        )
    compared = charts.with_similarity(comparison)
    if compared:
        images = min(comparison.recipe.compare.images, comparison.test_images)
        layer = comparison.recipe.compare.layer or "the inputs of the last linear layer"
        yield Chart(
            "cka",
            "Similarity of features",
            f"Linear CKA of {layer} with the checkpoint's, {images:,} test images, first seed.",
            lambda: charts.cka_curves(compared),
        )
    if any(found.cka_pairs for _, found in compared):
        yield Chart(
            "cka_pairs",
            "Similarity of features between widths",
            "Linear CKA of the same features between all widths, first seed.",
            lambda: charts.cka_maps(compared, MAPPED_METHODS),
        )
    if any(found.kl for _, found in compared):
        yield Chart(
            "kl",
            "Similarity of outputs",
            "Mean KL divergence between the outputs of all widths, first seed.",
            lambda: charts.divergence_maps(compared, MAPPED_METHODS),
        )


def _matrices(comparison: Comparison, run: Path) -> Figure | None:
    """Of the last weight with two channel dimensions that permuting has changed."""
    source, permuted = comparison.recipe.model.checkpoint, run / PERMUTED_FILE
    if source is None or not Path(source).exists() or not permuted.exists():
        return None
    try:
        asked = comparison.recipe.model
        before = load_checkpoint(Path(source), asked.arch, weights_key=asked.weights_key)
    except NeumetaError:
        return None
    old, new = before.model.state_dict(), read_weights(permuted).tensors
    changed = [
        name
        for name, tensor in old.items()
        if tensor.dim() >= 2
        and name in new
        and min(tensor.shape[:2]) > 8
        and not bool((tensor == new[name].float()).all())
    ]
    if not changed:
        return None
    name = changed[-1]
    pair = [
        t.float().flatten(2).mean(2) if t.dim() > 2 else t.float() for t in (old[name], new[name])
    ]
    return weight_matrices(pair[0].numpy(), pair[1].numpy(), name)


def _curves(comparison: Comparison, run: Path) -> charts.Curves:
    """The loss over epochs of all that was fitted, of each method's first run."""
    found = {}
    for method in comparison.methods:
        for folder in method.folders[:1]:
            for path in sorted((run / folder).rglob(METRICS_FILE)):
                inner = path.parent.relative_to(run / folder).as_posix()
                part = "" if inner == "." else f", {inner}"
                found[method.label, part] = _losses(path)
    return {name: losses for name, losses in found.items() if losses}


def _losses(path: Path) -> list[tuple[int, float]]:
    """(epoch, mean loss) of each epoch in a fit's journal.

    Raises:
        NeumetaError: it is damaged.

    """
    try:
        lines = path.read_text("utf-8").splitlines()
        epochs = [Epoch.model_validate(read_json(line)) for line in lines]
    except (OSError, ValueError) as error:
        raise NeumetaError(f"{path} is damaged; remove it, and the report has no losses") from error
    return [(e.epoch, e.loss) for e in epochs if e.epoch is not None and e.loss is not None]


def _content(comparison: Comparison) -> dict[str, Any]:
    """The tables, and what is said of them."""
    recipe, seeds, images = comparison.recipe, comparison.seeds, comparison.test_images
    low, high = recipe.fit.gamma
    unseen = {g: not low - 1e-9 <= g <= high + 1e-9 for g in comparison.gammas}
    best = (
        f"Mean ± standard deviation of {seeds} seeds; bold: best by more than chance may explain."
        if seeds > 1
        else "One seed: no difference is called better."
    )
    widest = recipe.fit.mixed_gamma[1]
    single = f" NeuMeta trained single cliques to {widest:.0%}." if recipe.fit.mixed else ""
    folded = " Norms are folded before a network's cost is counted." if comparison.code else ""
    spent = [_spent(method) for method in comparison.methods]
    about = f"{recipe.description}. " if recipe.description else ""
    return {
        "title": f"{recipe.name}: {recipe.model.arch}, scope {recipe.scope}",
        "summary": f"{about}{images:,} test images. "
        "γ is the share of channels in scope that is gone, 1 − width.",
        "gammas": comparison.gammas,
        "tables": [_table(comparison, metric, unseen) for metric in comparison.metrics],
        "methods": spent,
        "spent": [
            {"name": name, "title": title}
            for name, title in SPENT.items()
            if any(method[name] for method in spent)
        ],
        "ours": NeuMeta.name,
        "note": f"{best} γ from {low:.0%} to {high:.0%} was trained; brown figures lie outside."
        f"{single}{folded}",
        "costs": _costs(comparison),
        "channels": comparison.channels,
    }


def _spent(method: MethodResult) -> dict[str, str]:
    """What a method took, as its line in a table ends; nothing where nothing was trained."""
    numbers = method.stored_parameters
    return {
        "method": method.method,
        "label": method.label,
        "seconds": f"{method.seconds:,.1f}" if method.seconds else "",
        "epochs": f"{method.epochs:,}" if method.epochs else "",
        "bytes": f"{method.stored_bytes:,}",
        "numbers": "" if numbers is None else f"{numbers:,}",
    }


def _table(comparison: Comparison, metric: Metric, unseen: Mapping[float, bool]) -> dict[str, Any]:
    """One metric of every method at every γ."""
    methods, images = comparison.methods, comparison.test_images
    winners = {gamma: clear_winner(methods, gamma, images, metric) for gamma in unseen}
    lines = []
    for method in methods:
        cells = []
        for gamma, winner in winners.items():
            row = method.at(gamma)
            best = winner == method.label
            cells.append(row and {"text": row.shown(metric), "best": best, "unseen": unseen[gamma]})
        lines.append(cells)
    whole = metric.scaled(comparison.checkpoint.metrics[metric.name])
    better = "" if metric.higher_is_better else ", less is better"
    return {"name": metric.name, "title": metric.axis + better, "checkpoint": whole, "cells": lines}


def _costs(comparison: Comparison) -> dict[str, Any]:
    """The table of costs, without columns that nothing is in."""
    rows = {round(row.gamma, 6): row for method in comparison.methods for row in method.rows}
    latency = {gamma: comparison.latency_at(gamma) for gamma in rows}
    columns: dict[str, Callable[[float], str]] = {
        "γ": _percent,
        "parameters": lambda gamma: f"{rows[gamma].parameters:,}",
        "MACs": lambda gamma: f"{rows[gamma].macs:,}",
        "bytes": lambda gamma: f"{rows[gamma].bytes:,}",
        "latency, batch 1 (ms)": lambda gamma: _milliseconds(latency[gamma], 1),
        "batch 64 (ms)": lambda gamma: _milliseconds(latency[gamma], 64),
    }
    cells = {name: [cell(gamma) for gamma in sorted(rows)] for name, cell in columns.items()}
    kept = {name: column for name, column in cells.items() if any(column)}
    return {"columns": list(kept), "rows": list(zip(*kept.values(), strict=True))}


def _milliseconds(row: LatencyRow | None, batch: int) -> str:
    seconds = None if row is None else row.seconds(batch)
    return "" if seconds is None else f"{1000 * seconds:.2f}"


def _percent(gamma: float) -> str:
    return f"{100 * gamma:g}%"
