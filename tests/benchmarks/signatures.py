"""Write the table of what tensors torchvision's and timm's networks have (minutes).

    python tests/benchmarks/signatures.py

To be run again when a new version of either library is to be known without building its networks.
"""

import json
from importlib.metadata import version

from torch import nn

from neumeta_cli.checkpoint.arch import Arch, names_of
from neumeta_cli.checkpoint.known import WithoutValues
from neumeta_cli.signatures import TABLE, Signature

LIBRARIES = ("torchvision", "timm")


def entry(model: nn.Module) -> list[str]:
    """A network's line in the table."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    classes = getattr(model, "num_classes", None) or 1000
    counts = {classes, 1000, 21}  # of ImageNet, and of torchvision's segmentation
    ends = [name for name, shape in shapes.items() if shape and shape[0] in counts]
    found = Signature.of(shapes, dict.fromkeys(name.rpartition(".")[0] for name in ends))
    return [found.names, found.shapes, *found.heads]


def table() -> dict[str, object]:
    """All networks that can be built here."""
    networks: dict[str, list[str]] = {}
    with WithoutValues():
        for name in (f"{library}/{n}" for library in LIBRARIES for n in names_of(library)):
            try:
                networks[name] = entry(Arch(name).build())
            except Exception as error:
                print(f"{name}: {error}")
                networks[name] = []  # on the meta device, as for a search: nothing ever fits it
    return {
        "versions": {library: version(library) for library in LIBRARIES},
        "ours": list(names_of("zoo")),
        "networks": networks,
    }


def as_text(document: dict[str, object]) -> str:
    """JSON with one line for each network."""
    text = json.dumps(document, separators=(",", ":"))
    return text.replace("],", "],\n").replace('"networks":{', '"networks":{\n') + "\n"


if __name__ == "__main__":
    TABLE.write_text(as_text(table()), encoding="utf-8")
