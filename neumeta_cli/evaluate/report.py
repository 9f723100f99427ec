"""One page that shows a run: tables and pictures, with nothing fetched from elsewhere."""

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib.figure import Figure

import neumeta_cli.evaluate.charts as charts
from neumeta_cli.checkpoint import load_checkpoint, read_weights, write_text
from neumeta_cli.distill import METRICS_FILE
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate.plots import save_figure, weight_matrices
from neumeta_cli.tasks import Metric

PAGE = "report.html"
KL_METHODS = ("neumeta", "individual", "distilled")
Curves = Mapping[str, Sequence[Mapping[str, float]]]


def write_report(document: Mapping[str, Any], run: Path, folder: Path) -> Path:
    """Write the page and its pictures, each as PNG and SVG too.

    Args:
        document: of a comparison (``compare.json``), or of a fit in the same form.
        run: the folder with its permuted checkpoint and metrics.
        folder: where to write.

    Returns:
        The page.

    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for name, title, caption, draw in _pictures(document, run):
        figure = draw()
        save_figure(figure, folder / f"{name}.png")
        svg = save_figure(figure, folder / f"{name}.svg").read_bytes()
        told = {"name": name, "title": title, "caption": caption}
        pictures.append(told | {"source": _embedded(svg, "svg+xml")})
    for name in document.get("pictures", []):
        png = (run / "pictures" / f"{name}.png").read_bytes()
        kind, _, which = name.rpartition("_")
        width = which if which == "checkpoint" else f"width {which}"
        told = {"name": name, "title": f"{kind}, {width}".capitalize(), "caption": ""}
        pictures.append(told | {"source": _embedded(png, "png")})
    environment = Environment(
        loader=PackageLoader("neumeta_cli.evaluate", ""), autoescape=select_autoescape(["j2"])
    )
    page = environment.get_template("report.html.j2").render(
        **_content(document), pictures=pictures, percent=_percent
    )
    return write_text(folder / PAGE, page)


def _embedded(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def clear_winner(
    entries: Sequence[Mapping[str, Any]], gamma: float, images: int, metric: Metric
) -> str | None:
    """The label of the method that is best at γ by more than chance may explain, if any is.

    A difference is not called better if it is no larger than the sum of the two standard deviations
    over seeds, or, for shares, than the standard error of a difference on so many test images; nor
    is any between runs of a single seed.
    """
    sign = 1 if metric.higher_is_better else -1
    known = sorted(
        ((row, e["label"]) for e in entries if (row := _row(e, gamma)) is not None),
        key=lambda found: -sign * found[0]["metrics"][metric.name],
    )
    spreads = [s for row, _ in known[:2] if (s := charts.deviation(row, metric)) is not None]
    if len(spreads) < 2:
        return None
    first, second = (row["metrics"][metric.name] for row, _ in known[:2])
    variance = (first * (1 - first) + second * (1 - second)) / images if metric.share else 0.0
    better = sign * (first - second) > max(sum(spreads), math.sqrt(variance))
    return str(known[0][1]) if better else None


def _pictures(
    document: Mapping[str, Any], run: Path
) -> list[tuple[str, str, str, Callable[[], Figure]]]:
    metric = charts.metrics_of(document)[0]
    seeds = max(len(e["seeds"]) for e in document["methods"])
    bars = (
        f"Means of {seeds} seeds, bars of one standard deviation. " if seeds > 1 else "One seed. "
    )
    made: list[tuple[str, str, str, Callable[[], Figure]]] = [
        (
            "metric_over_gamma",
            f"{metric.name} over compression",
            f"{bars} The shaded range was trained; outside it only networks that are trained "
            "alone at each width have seen that width.",
            lambda: charts.metric_over_gamma(document),
        ),
        (
            "metric_over_cost",
            f"{metric.name} over cost",
            "Networks of the same γ have the same shapes, and so the same MACs and latency.",
            lambda: charts.metric_over_cost(document),
        ),
    ]
    if document.get("total_variation"):
        made.append(
            (
                "total_variation",
                "Smoothness",
                "How much weights differ from channel to channel, as stored and permuted.",
                lambda: charts.total_variation(document),
            )
        )
    matrices = _matrices(document, run)
    if matrices is not None:
        made.append(
            (
                "weights",
                "Weights",
                "The last convolution's or linear layer's weight, mean over kernels.",
                lambda: matrices,
            )
        )
    curves = _curves(document, run)
    if curves:
        caption = "Mean of each epoch, first seed; losses of different methods have other parts."
        made.append(("loss", "Fitting", caption, lambda: charts.loss_curves(curves)))
    if charts.with_similarity(document):
        images = min(document["recipe"]["compare"]["images"], document["test_images"])
        layer = document["recipe"]["compare"]["layer"] or "the inputs of the last linear layer"
        made += [
            (
                "cka",
                "Similarity of features",
                f"Linear CKA of {layer} with the checkpoint's, {images} test images, first seed.",
                lambda: charts.cka_curves(document),
            )
        ]
    if any("kl" in e["similarity"] for e in charts.with_similarity(document)):
        made += [
            (
                "kl",
                "Similarity of outputs",
                "Mean KL divergence between the outputs of all widths, first seed.",
                lambda: charts.divergence_maps(document, KL_METHODS),
            ),
        ]
    return made


def _matrices(document: Mapping[str, Any], run: Path) -> Figure | None:
    """Of the last weight with two channel dimensions that permuting has changed."""
    source = document["recipe"]["model"]["checkpoint"]
    permuted = run / "permuted.safetensors"
    if source is None or not Path(source).exists() or not permuted.exists():
        return None
    try:
        asked = document["recipe"]["model"]
        before = load_checkpoint(Path(source), asked["arch"], weights_key=asked.get("weights_key"))
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


def _curves(document: Mapping[str, Any], run: Path) -> Curves:
    found: dict[str, Sequence[Mapping[str, float]]] = {}
    for entry in document["methods"]:
        for folder in entry["folders"][:1]:
            for path in sorted((run / folder).rglob(METRICS_FILE)):
                inner = path.parent.relative_to(run / folder).as_posix()
                name = entry["label"] if inner == "." else f"{entry['label']}, {inner}"
                lines = path.read_text("utf-8").splitlines()
                records = [json.loads(line) for line in lines]
                found[name] = [r for r in records if "loss" in r and "epoch" in r]
    return {name: records for name, records in found.items() if records}


def _content(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the template fills in."""
    recipe = document["recipe"]
    low, high = recipe["fit"]["gamma"]
    gammas = sorted({round(r["gamma"], 6) for e in document["methods"] for r in e["rows"]})
    images = document["test_images"]
    metrics = charts.metrics_of(document)
    unseen = {gamma: not low - 1e-9 <= gamma <= high + 1e-9 for gamma in gammas}
    methods = []
    for entry in document["methods"]:
        numbers = {
            "seconds": f"{entry['seconds']:,.1f}",
            "epochs": f"{entry['epochs']:,}",
            "bytes": f"{entry['stored_bytes']:,}",
            "numbers": f"{entry['stored_parameters']:,}" if "stored_parameters" in entry else "",
        }
        names = {"method": entry["method"], "label": entry["label"]}
        methods.append({**names, **numbers})
    seeds = max(len(e["seeds"]) for e in document["methods"])
    best = (
        f"Mean ± standard deviation of {seeds} seeds; bold: best by more than chance may explain."
        if seeds > 1
        else "One seed: no difference is called better."
    )
    hardware = document.get("hardware", {})
    mixed = recipe["fit"]["mixed_gamma"] if recipe["fit"]["mixed"] else None
    single = f" NeuMeta trained single cliques to {mixed[1]:.0%}." if mixed else ""
    return {
        "title": f"{recipe['name']}: {recipe['model']['arch']}, scope {recipe['scope']}",
        "summary": f"{recipe['description']}. {document['test_images']:,} test images. "
        "γ is the share of channels in scope that is gone.",
        "gammas": gammas,
        "tables": [_table(document, metric, unseen, images) for metric in metrics],
        "methods": methods,
        "note": f"{best} γ from {low:.0%} to {high:.0%} was trained; brown figures lie outside."
        f"{single} Norms are folded before a network's cost is counted.",
        "costs": _costs(document),
        "recipe": json.dumps(recipe, indent=1, ensure_ascii=False),
        "hardware": ", ".join(f"{k}: {v}" for k, v in hardware.items()),
    }


def _table(
    document: Mapping[str, Any], metric: Metric, unseen: Mapping[float, bool], images: int
) -> dict[str, Any]:
    """One metric of every method at every γ."""
    entries = document["methods"]
    winners = {gamma: clear_winner(entries, gamma, images, metric) for gamma in unseen}
    lines = []
    for entry in entries:
        cells = []
        for gamma, winner in winners.items():
            row = _row(entry, gamma)
            best = winner == entry["label"]
            cells.append(
                row and {"text": _mean(row, metric), "best": best, "unseen": unseen[gamma]}
            )
        lines.append(cells)
    whole = metric.scaled(document["checkpoint"]["metrics"][metric.name])
    better = "" if metric.higher_is_better else ", less is better"
    return {"name": metric.name, "title": metric.axis + better, "checkpoint": whole, "cells": lines}


def _costs(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    latency = {round(r["gamma"], 6): r for r in document.get("latency", [])}
    rows = {round(r["gamma"], 6): r for e in document["methods"] for r in e["rows"]}
    return [
        {
            "gamma": gamma,
            "parameters": f"{row['parameters']:,}",
            "macs": f"{row['macs']:,}",
            "one": f"{1000 * latency[gamma]['seconds_batch_1']:.2f}" if gamma in latency else "",
            "many": f"{1000 * latency[gamma]['seconds_batch_64']:.2f}" if gamma in latency else "",
        }
        for gamma, row in sorted(rows.items())
    ]


def _row(entry: Mapping[str, Any], gamma: float) -> Mapping[str, Any] | None:
    return next((r for r in entry["rows"] if abs(r["gamma"] - gamma) < 1e-6), None)


def _mean(row: Mapping[str, Any], metric: Metric) -> str:
    return metric.scaled(row["metrics"][metric.name], charts.deviation(row, metric))


def _percent(gamma: float) -> str:
    return f"{100 * gamma:g}%"
