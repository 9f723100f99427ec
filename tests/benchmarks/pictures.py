"""The pictures of accuracy in README and examples/, drawn from the files in examples/results/.

    python tests/benchmarks/pictures.py

Nothing is measured here.
"""

from pathlib import Path

from neumeta_cli.compare import charts
from neumeta_cli.compare.results import Comparison
from neumeta_cli.evaluate import save_figure

EXAMPLES = Path(__file__).parents[2] / "examples"
RESULTS = EXAMPLES / "results"


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
    digits = Comparison.read(RESULTS / "compare_digits.json")
    draw(digits, "digits, LeNet, scope all", EXAMPLES / "digits_lenet.png")


if __name__ == "__main__":
    main()
