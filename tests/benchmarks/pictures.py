"""The pictures of accuracy in README and examples/, drawn from the files in examples/results/.

    python tests/benchmarks/pictures.py

Nothing is measured here.
"""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from neumeta_cli.compare import charts
from neumeta_cli.compare.results import Comparison
from neumeta_cli.evaluate import save_figure

EXAMPLES = Path(__file__).parents[2] / "examples"
RESULTS = EXAMPLES / "results"
TICKS = (10, 20, 40, 80, 160)  # million MACs


def strongest(comparison: Comparison) -> Comparison:
    """Without pruning with stale norm statistics, where it was run with calibrated ones too.

    And of those that are left, without ℓ1 where there is ℓ2, which is a little better.
    """
    names = {method.method for method in comparison.methods}
    worse = {method for method in names if f"{method}_bn" in names}
    worse |= {"l1_bn"} if "l2_bn" in names else set()
    kept = [m for m in comparison.methods if m.method not in worse]
    return comparison.model_copy(update={"methods": kept})


def draw(comparison: Comparison, title: str, path: Path) -> None:
    """Accuracy over γ; networks that are trained alone have been trained at every γ."""
    figure = charts.metric_over_gamma(comparison)
    axes = figure.axes[0]
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("compression ratio γ of the channels in scope (%); at 50%, half are left")
    print(save_figure(figure, path).relative_to(EXAMPLES.parent))


def draw_depth(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Accuracy over cost of networks that are narrow, short, or both: a panel for each network."""
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = {"r56": "ResNet-56", "vit": "ViT of 6 blocks"}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        rows = runs[f"{name}_neumeta"]
        short = [row for row in rows if row["width"] == 1]
        both = [row for row in rows if row["width"] < 1 and row["depth"] < 1]
        narrow = {(r["width"], r["macs"], r["accuracy"]) for r in rows if r["depth"] == 1}
        narrow |= {(r["equal_width"], r["macs"], r["by_width"]) for r in rows if r["depth"] < 1}
        by_width = sorted((macs, value) for _, macs, value in narrow)
        alone = [r for d in ("67", "33") for r in runs[f"{name}_alone{d}"]]
        for points, style, label in (
            (by_width, "o-", "width alone"),
            ([(r["macs"], r["accuracy"]) for r in short], "s-", "depth alone"),
            ([(r["macs"], r["accuracy"]) for r in both], "D", "both"),
            ([(r["macs"], r["accuracy"]) for r in alone], "x", "depth, distilled alone"),
            ([(r["macs"], r["untrained"]) for r in short if r["depth"] < 1], "^", "blocks dropped"),
        ):
            xs, ys = zip(*sorted(points), strict=True)
            axes.plot([x / 1e6 for x in xs], [100 * y for y in ys], style, label=label, ms=4, lw=1)
        axes.set(title=f"{title}, CIFAR-10 (JPEG)", xlabel="million MACs", xscale="log")
        axes.set_xticks([], minor=True)
        axes.set_xticks(TICKS, [f"{tick}" for tick in TICKS])
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("top-1 (%)")
    panels[1].legend(fontsize=7, loc="lower right")
    print(save_figure(figure, path).relative_to(EXAMPLES.parent))


def main() -> None:
    cifar10 = "CIFAR-10 (JPEG), ResNet-"
    for name, title, path in (
        ("compare_cifar10_resnet20_six_epochs", f"{cifar10}20, scope all", "cifar10_resnet20_all"),
        ("compare_cifar10_resnet18", f"{cifar10}18, scope all", "compare_cifar10_resnet18"),
        (
            "compare_cifar10_resnet20",
            f"{cifar10}20, scope paper, a short schedule",
            "compare_cifar10_resnet20",
        ),
    ):
        found = strongest(Comparison.read(RESULTS / f"{name}.json"))
        draw(found, title, RESULTS / f"{path}.png")
    depth = json.loads((RESULTS / "depth_accuracy.json").read_text("utf-8"))
    draw_depth(depth["runs"], RESULTS / "depth.png")
    digits = Comparison.read(RESULTS / "compare_digits.json")
    draw(digits, "digits, LeNet, scope all", EXAMPLES / "digits_lenet.png")


if __name__ == "__main__":
    main()
