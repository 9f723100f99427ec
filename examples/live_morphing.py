"""One network in memory that gets narrower while it is busy and wider again when it is not.

Run after ``make demo``, or point it at a manifold of your own:

    python examples/live_morphing.py demo/runs/demo/manifold.safetensors
"""

import sys
import time
from pathlib import Path

import torch

import neumeta_cli

WIDTHS = (1.0, 0.5, 0.25)


def main(path: Path) -> None:
    manifold = neumeta_cli.load(path)
    net = manifold.live(width=1.0).prepare(WIDTHS)
    images = torch.randn(8, *manifold.input_size)
    for waiting in (0, 40, 300, 20, 0):  # requests in line
        start = time.perf_counter()
        net.morph(WIDTHS[(waiting > 10) + (waiting > 100)])
        seconds = time.perf_counter() - start
        same = torch.equal(net(images), manifold.sample(net.width)(images))
        parameters = sum(p.numel() for p in net.parameters())
        print(
            f"{waiting:3} waiting: width {net.width:4}, {parameters:6,} parameters, morphed in "
            f"{1000 * seconds:.3f} ms, as sampled at that width: {same}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/runs/demo/manifold.safetensors"))
