"""Writing a network of a manifold to disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neumeta_cli.checkpoint import FORMAT_VERSION, NETWORK, Weights, write_weights
from neumeta_cli.data.preprocessing import as_before
from neumeta_cli.data.settings import DataSection
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate import MANIFOLD
from neumeta_cli.export.calibrating import read_images, recalibrate
from neumeta_cli.export.choose.wish import mean_width
from neumeta_cli.export.precision import (
    check_dtype,
    convert,
    example,
    outputs_of,
)
from neumeta_cli.export.programs import PROGRAMS
from neumeta_cli.manifold import Manifold, blueprint_to_json
from neumeta_cli.reporting import Reporter
from neumeta_cli.resize import measure_cost

SUFFIXES = (".pt", ".pth", ".safetensors", *PROGRAMS)


@dataclass(frozen=True)
class Finish:
    """What is done to a network once it has been sampled.

    Attributes:
        fold: fold batch norm into the layers before it; None folds for ``.onnx`` and ``.pt2`` and
            leaves other files as the manifold has it.
        calibrate: a folder of images to fit norm statistics to, or biases where norms were folded
            before the fit.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        batch: the only batch size that ``.onnx`` and ``.pt2`` files take; any if None.

    """

    fold: bool | None = None
    calibrate: Path | None = None
    dtype: str = "float32"
    batch: int | None = None


AS_SAMPLED = Finish()


@dataclass(frozen=True)
class Exported:
    """A network that was written.

    Attributes:
        model: the module.
        sizes: channels of its cliques.
        path: the file.
        metrics: rows that the fit measured of this very network.

    """

    model: nn.Module
    sizes: dict[str, int]
    path: Path
    metrics: tuple[dict[str, Any], ...] = ()


def export_network(
    manifold: Manifold,
    path: Path,
    width: float | None = None,
    samples: int | None = None,
    reporter: Reporter | None = None,
    finish: Finish = AS_SAMPLED,
    sizes: Mapping[str, int] | None = None,
) -> Exported:
    """Write the network of one width, or of some sizes; ``load`` gives it back.

    Args:
        manifold: a fitted one.
        path: ``.pt`` (a state dict for ``torch.load(weights_only=True)``), ``.safetensors``,
            ``.onnx`` or ``.pt2`` (for ``torch.export.load``); the last two run without neumeta.
        width: kept over full channels of the cliques in scope; above 1 extrapolates.
        samples: K, the manifold's own if None.
        reporter: is told of the progress.
        finish: what else is done to it.
        sizes: channels by clique in place of a width; cliques left out keep theirs.

    Raises:
        NeumetaError: neither or both of width and sizes, a width that is not positive, another
            ending, a finish that is not possible, a file that cannot be written or that computes
            something else than the network.

    """
    path = Path(path)
    fold, images = _prepare(manifold, path, finish)
    model = manifold.sample(width, sizes, samples, reporter).cpu()
    frame = manifold.frame
    chosen = frame.full | dict(sizes or {}) if width is None else frame.sizes(width)
    size = manifold.input_size
    fitted = None
    if images is not None:
        fitted = recalibrate(manifold, model, images, samples, reporter)
    wanted = outputs_of(model, example(size, 2))
    if fold and not manifold.fold:
        model = frame.fold(model)
    model = convert(model, finish.dtype, size, wanted)
    cost = measure_cost(model, size)
    untouched = fitted is None and samples is None and finish.dtype == "float32"
    untouched = untouched and not (frame.dropped or frame.added)
    metrics = _metrics(manifold, chosen) if untouched else []
    metadata = {
        **_of_manifold(manifold),
        "fold": fold,
        "width": mean_width(manifold, chosen) if width is None else width,
        "sizes": chosen,
        **({"dropped": list(frame.dropped)} if frame.dropped else {}),
        **({"added": dict(frame.added)} if frame.added else {}),
        "dtype": finish.dtype,
        "calibrated": None if images is None else {"images": len(images), "fitted": fitted},
        "parameters": cost.parameters,
        "macs": cost.macs,
        "metrics": metrics,
    }
    if path.suffix in PROGRAMS:
        PROGRAMS[path.suffix].write(path, model, size, metadata, finish.batch)
    else:
        write_weights(path, Weights(dict(model.state_dict()), metadata))
    return Exported(model, chosen, path, tuple(metrics))


def check_ending(path: Path) -> None:
    """Refuse a file of an ending that no export has."""
    if path.suffix not in SUFFIXES:
        raise NeumetaError(f"cannot export to {path}: use one of the endings {', '.join(SUFFIXES)}")


def _prepare(manifold: Manifold, path: Path, finish: Finish) -> tuple[bool, torch.Tensor | None]:
    """Refuse what is not possible before any work is done; whether to fold, and the images."""
    check_ending(path)
    dtype = check_dtype(finish.dtype)
    if path.suffix in PROGRAMS:
        PROGRAMS[path.suffix].check(dtype)
    folded = manifold.fold
    if folded and finish.fold is False:
        raise NeumetaError(
            "this manifold's norms were folded before the fit; for a network with norms, "
            "fit it with --set norm.fold=false"
        )
    fold = finish.fold
    if fold is None:
        fold = folded or path.suffix in PROGRAMS
    if finish.calibrate is None:
        return fold, None
    data = as_before(DataSection(**manifold.provenance.recipe.get("data", {})))
    return fold, read_images(Path(finish.calibrate), data, manifold.input_size)


def _of_manifold(manifold: Manifold) -> dict[str, Any]:
    """What every network of a manifold says of itself."""
    provenance = manifold.provenance
    return {
        "kind": NETWORK,
        "format_version": FORMAT_VERSION,
        **blueprint_to_json(manifold.blueprint),
        "data": provenance.recipe.get("data", {}) | {"root": None, "test_root": None},
        "task": provenance.recipe.get("task", "classification"),
        "recipe": provenance.recipe.get("name"),
        "provenance": {"checkpoint": provenance.checkpoint, "sha256": provenance.sha256},
    }


def _metrics(manifold: Manifold, sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    """Rows of the run's table for the manifold's network of these sizes."""
    rows = manifold.provenance.metrics.get("table", [])
    own = [row for row in rows if row.get("method") == MANIFOLD]
    return [row for row in own if manifold.frame.sizes(row["width"]) == sizes]
