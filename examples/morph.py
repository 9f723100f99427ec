"""Networks of three widths from one manifold, in memory and on disk.

Run after ``make demo``, or point it at a manifold of your own:

    python examples/morph.py demo/runs/demo/manifold.safetensors
"""

import sys
from pathlib import Path

import torch

import neumeta_cli


def main(path: Path) -> None:
    manifold = neumeta_cli.load(path)
    images = torch.randn(8, *manifold.input_size)
    for width in (1.0, 0.5, 0.37):
        network = manifold.sample(width)
        parameters = sum(p.numel() for p in network.parameters())
        print(f"width {width:4}: {parameters:7,} parameters, scores {tuple(network(images).shape)}")

    exported = neumeta_cli.export_network(manifold, path.with_name("half.pt"), width=0.5)
    again = neumeta_cli.load(exported.path)
    same = torch.equal(again(images), exported.model(images))
    print(f"{exported.path.name} computes what its twin in memory does: {same}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/runs/demo/manifold.safetensors"))
