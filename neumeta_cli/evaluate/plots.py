"""Pictures: a metric over γ, and a weight before and after permutation."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neumeta_cli.checkpoint import write_atomically
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate.measure import CHECKPOINT, MANIFOLD, Row
from neumeta_cli.evaluate.prune import L1_PRUNING
from neumeta_cli.tasks import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg", ".pdf")
DPI = 150
STYLES = {MANIFOLD: ("o-", "tab:blue"), L1_PRUNING: ("s--", "tab:red")}  # as comparisons have them


def plot_over_gamma(
    rows: Sequence[Row], metric: Metric, path: Path, trained: tuple[float, float], title: str
) -> Path:
    """Draw a metric over γ for each method, the trained range shaded, as PNG and as SVG.

    Args:
        rows: of the sweep.
        metric: which.
        path: of the PNG; the SVG lies beside it.
        trained: range of γ that the fit saw.
        title: above the picture.

    """
    figure, axes = canvas(path, (6.4, 4.0))
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
    return save_both(figure, path)


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


def canvas(path: Path, size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure for a picture of this ending, and its axes."""
    from matplotlib.figure import Figure

    _check_ending(path)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def _check_ending(path: Path) -> None:
    if Path(path).suffix not in PICTURES:
        raise NeumetaError(f"cannot draw {path}: use one of the endings {', '.join(PICTURES)}")


def save_both(figure: "Figure", path: Path) -> Path:
    """Write a picture as PNG and, beside it, as SVG; gives the first."""
    save_figure(figure, path.with_suffix(".svg"))
    return save_figure(figure, path.with_suffix(".png"))


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
