"""The pictures of accuracy in README and examples/, drawn from the files in examples/results/.

    python tests/benchmarks/pictures.py

Nothing is measured here. The rivals of NeuMeta on CIFAR-10, scope ``all``, lie in three files, as
they were run on several days; pruning trains nothing, so its rows of a shorter comparison hold.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from neumeta_cli.compare import charts
from neumeta_cli.compare.methods import METHODS
from neumeta_cli.compare.results import Comparison, MergedRow, MethodResult
from neumeta_cli.evaluate import FitTable, Row, save_figure

EXAMPLES = Path(__file__).parents[2] / "examples"
RESULTS = EXAMPLES / "results"
METRIC = "top-1"
EARLIER = "earlier fit: "
FILES = {  # method, to what rivals.json calls it; later ones fill in widths that earlier ones lack
    "neumeta": ("NeuMeta, the recipe",),
    "us_net": ("us_net",),
    "distilled": (
        "distilled (alone, from its largest channels)",
        EARLIER + "alone_from_its_largest_channels_25",
    ),
    "individual": (EARLIER + "individual (the same without the teacher), 256 calibration images",),
}
CALIBRATED = "256 calibration images"
PRUNING = ("l2_bn",)  # the best of five criteria at γ of 25 and 50%


def cifar10_all() -> Comparison:
    """NeuMeta and its rivals on the CIFAR-10 ResNet-20, scope ``all``, six epochs each."""
    shorter = Comparison.read(RESULTS / "compare_cifar10_resnet20_all.json")
    costs = FitTable.read(RESULTS / "cifar10_resnet20_all.json").rows
    told = json.loads((RESULTS / "cifar10_resnet20_all_rivals.json").read_text("utf-8"))
    methods = [_trained(name, [told[key] for key in keys], costs) for name, keys in FILES.items()]
    methods += [method for method in shorter.methods if method.method in PRUNING]
    return shorter.model_copy(update={"methods": methods})


def _trained(name: str, entries: Sequence[Mapping], costs: Sequence[Row]) -> MethodResult:
    """A method's rows, from top-1 by γ, of one random seed or of several."""
    values: dict[float, list[float]] = {}
    for entry in entries:
        for gamma, found in entry.get(CALIBRATED, entry).items():
            values.setdefault(float(gamma), found if isinstance(found, list) else [found])
    by_gamma = {round(row.gamma, 6): row.cost for row in costs}
    rows = [
        MergedRow(
            width=1 - gamma,
            gamma=gamma,
            parameters=by_gamma[gamma].parameters,
            macs=by_gamma[gamma].macs,
            bytes=by_gamma[gamma].bytes,
            metrics={METRIC: statistics.fmean(found)},
            deviations={METRIC: statistics.stdev(found) if len(found) > 1 else None},
            values={METRIC: found},
        )
        for gamma, found in sorted(values.items())
    ]
    return MethodResult(
        method=name,
        label=METHODS[name].label,
        seeds=list(range(max(len(found) for found in values.values()))),
        folders=[],
        seconds=0.0,
        epochs=6,
        stored_bytes=0,
        rows=rows,
    )


def strongest(comparison: Comparison) -> Comparison:
    """Without pruning with stale norm statistics, where it was run with calibrated ones too."""
    names = {method.method for method in comparison.methods}
    kept = [m for m in comparison.methods if f"{m.method}_bn" not in names]
    return comparison.model_copy(update={"methods": kept})


def draw(comparison: Comparison, title: str, path: Path) -> None:
    """Accuracy over γ; networks that are trained alone have been trained at every γ."""
    figure = charts.metric_over_gamma(comparison)
    axes = figure.axes[0]
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("compression ratio γ of the channels in scope (%); at 50%, half are left")
    print(save_figure(figure, path).relative_to(EXAMPLES.parent))


def main() -> None:
    cifar10 = "CIFAR-10 (JPEG), ResNet-20, scope"
    draw(cifar10_all(), f"{cifar10} all", RESULTS / "cifar10_resnet20_all.png")
    paper = strongest(Comparison.read(RESULTS / "compare_cifar10_resnet20.json"))
    title = f"{cifar10} paper, a short schedule"
    draw(paper, title, RESULTS / "compare_cifar10_resnet20.png")
    digits = Comparison.read(RESULTS / "compare_digits.json")
    draw(digits, "digits, LeNet, scope all", EXAMPLES / "digits_lenet.png")


if __name__ == "__main__":
    main()
