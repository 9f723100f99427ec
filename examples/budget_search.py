"""A network for a budget: one width for all layers, or a width for each, found by a search.

Run after ``make demo``, or point it at a manifold of the digits recipe:

    python examples/budget_search.py demo/runs/demo/manifold.safetensors
"""

import sys
import tempfile
from pathlib import Path

import neumeta_cli
from neumeta_cli import Budget, Choice, Order, Wish

BUDGET, SAMPLES = Budget(parameters=1500), 60


def main(path: Path) -> None:
    recipe = neumeta_cli.load_recipe("digits_lenet")
    manifold = neumeta_cli.load(path)
    whole, size = manifold.sample(1.0), manifold.input_size
    task = neumeta_cli.load_task(recipe.data, whole, size, train=False)
    wish = Wish()
    order = Order(wish, BUDGET, search=SAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "small.pt"
        planned, exported = neumeta_cli.export_planned(Choice(manifold, wish), order, file, task)
        again = neumeta_cli.load(exported.path)
    searched = planned.searched
    for name, found in (("one width", searched.uniform), ("searched", searched.allocated)):
        cost = found.found.cost["parameters"]
        print(
            f"{name}: {cost:,.0f} parameters, loss {found.loss:.3f}, {found.metrics['top-1']:.2%}"
        )
    print(f"taken: {planned.sizes}, {sum(p.numel() for p in again.parameters()):,} parameters")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/runs/demo/manifold.safetensors"))
