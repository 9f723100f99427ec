"""A network of half width as ONNX, run by onnxruntime alone on scikit-learn's digits.

Point it at a manifold of the digits, or let it fit one in a few seconds:

    python examples/deploy_onnx.py
    python examples/deploy_onnx.py demo/runs/demo/manifold.safetensors half.onnx

``classify`` is all that a device needs: onnxruntime and numpy, no torch and no neumeta.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from sklearn.datasets import load_digits


def classify(path: Path, images: np.ndarray) -> np.ndarray:
    """Digits of images (n, 8, 8) with values from 0 to 16."""
    session = onnxruntime.InferenceSession(str(path))
    inputs = ((images[:, None] / 16 - 0.5) / 0.5).astype(np.float32)  # as the recipe has it
    (scores,) = session.run(None, {session.get_inputs()[0].name: inputs})
    return scores.argmax(1)


def export(manifold: Path | None, path: Path) -> None:
    """Write the network of half width; without a manifold one is fitted first."""
    import neumeta_cli

    if manifold is None:
        run = path.with_suffix(".run")
        neumeta_cli.run_recipe(neumeta_cli.load_recipe("digits_lenet", ["fit.epochs=5"]), run)
        manifold = run / "manifold.safetensors"
    exported = neumeta_cli.export_network(neumeta_cli.load(manifold), path, width=0.5)
    print(f"{exported.path.name}: {exported.path.stat().st_size:,} bytes, checked against torch")


def main(manifold: Path | None, path: Path) -> None:
    export(manifold, path)
    digits = load_digits()
    testing = np.arange(len(digits.target)) % 5 == 4  # of each five images, as the recipe has it
    right = classify(path, digits.images[testing]) == digits.target[testing]
    print(f"top-1 of {testing.sum()} test images with onnxruntime: {right.mean():.2%}")


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        main(given[0] if given else None, given[1] if len(given) > 1 else Path(folder, "half.onnx"))
