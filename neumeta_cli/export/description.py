"""What is in a file, without running anything of it."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from neumeta_cli.checkpoint import (
    COMPACT_VERSION,
    MANIFOLD,
    NETWORK,
    Checkpoint,
    Weights,
    file_hash,
    first_line,
    load_checkpoint,
    read_weights,
    refusing,
    require_there,
)
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export.programs import CHANGED, PROGRAMS
from neumeta_cli.reporting import Reporter
from neumeta_cli.resize import measure_cost

if TYPE_CHECKING:
    from neumeta_cli.manifold import Manifold

STATE = frozenset({"field", "average", "optimizer", "step"})  # entries of a stopped fit's state


def describe(
    path: Path,
    reporter: Reporter | None = None,
    arch: str | None = None,
    weights_key: str | None = None,
) -> dict[str, Any]:
    """What is known of a file that neumeta reads or writes, as plain JSON types.

    Args:
        path: the file; no code that it names is imported.
        reporter: is told of the progress where an architecture has to be searched for.
        arch: the architecture, for a checkpoint that does not tell.
        weights_key: which of several state dicts in a checkpoint's file.

    Returns:
        ``file``, ``bytes``, ``kind`` and ``warnings`` for every file, and what else its kind has:
        ``format_version``, ``arch``, ``input_size``, ``parameters``, ``macs``, ``width``,
        ``widths``, ``sizes``, ``bytes_by_part`` (which add up to ``bytes``),
        ``recipe``, ``provenance``, ``metrics`` and more.

    Raises:
        NeumetaError: the file cannot be read.

    """
    path = Path(path)
    require_there(path)
    with refusing(path, "file"):
        if path.suffix in PROGRAMS and path.is_file():
            known = _program(path)
        else:
            opening = partial(load_checkpoint, path, arch, None, reporter, weights_key)
            known = _weights(path, read_weights(path, weights_key), opening)
    version = known.get("format_version")
    if isinstance(version, int) and version > COMPACT_VERSION:
        known["warnings"].append(
            f"format version {version} is newer than this neumeta reads ({COMPACT_VERSION})"
        )
    return {"file": str(path), "bytes": path.stat().st_size, **known}


def _program(path: Path) -> dict[str, Any]:
    metadata, seen = PROGRAMS[path.suffix].read(path)
    as_written = seen.pop("as_written", True)
    if not metadata:
        return {"kind": "program", **seen, "warnings": ["not written by neumeta"]}
    known = _exported(metadata) | seen
    return known if as_written else known | {"warnings": [CHANGED, *known["warnings"]]}


def _weights(path: Path, weights: Weights, opening: Callable[[], Checkpoint]) -> dict[str, Any]:
    kind = weights.metadata.get("kind", "checkpoint")
    seen = _tensors(weights.tensors)
    if isinstance(weights.envelope, Mapping) and weights.envelope.keys() >= STATE:
        return _state(weights.envelope)
    if kind == MANIFOLD:
        return seen | _manifold(path, weights)
    if kind == NETWORK:
        return seen | _exported(weights.metadata)
    return seen | _checkpoint(path, weights, opening)


def _tensors(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "tensors": len(tensors),
        "values": sum(t.numel() for t in tensors.values()),
        "dtypes": sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()}),
    }


def _state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Of the state that a fit goes on from."""
    return {
        "kind": "state of a fit",
        "step": state["step"],
        "skipped": state.get("skipped", 0),
        "seconds": state.get("seconds"),
        "warnings": ["no network: neumeta fit --resume continues from it"],
    }


def _exported(metadata: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in metadata.items() if name != "digest"}
    warnings = []
    if not metadata.get("metrics"):
        warnings.append("its accuracy has not been measured")
    return known | {"warnings": warnings}


def _manifold(path: Path, weights: Weights) -> dict[str, Any]:
    known = {name: value for name, value in weights.metadata.items() if name != "digest"}

    provenance = dict(known.pop("provenance", None) or {})
    known |= {
        "recipe": provenance.pop("recipe", {}),
        "metrics": provenance.pop("metrics", {}).get("table", []),
        "provenance": provenance,
        "warnings": [],
    }
    from neumeta_cli.manifold import bytes_by_part, load_manifold

    try:
        manifold = load_manifold(path)
    except NeumetaError as error:
        return known | {"warnings": [str(error)]}
    known["bytes_by_part"] = bytes_by_part(path, weights.tensors, manifold)
    return known | _of_manifold(manifold, known["recipe"], known["metrics"])


def _of_manifold(
    manifold: "Manifold", recipe: Mapping[str, Any], metrics: list[Any]
) -> dict[str, Any]:
    full = manifold.frame.full
    cost = measure_cost(manifold.skeleton(full), manifold.input_size)
    known: dict[str, Any] = {
        "cliques": [clique.as_dict() for clique in manifold.frame.cliques],
        "sizes": full,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "calibration_images": len(manifold.calibration),
    }
    warnings = []
    if manifold.norms and not len(manifold.calibration):
        warnings.append("no images to calibrate norms with: export with --calibrate DIR")
    if gammas := recipe.get("fit", {}).get("gamma"):
        low, high = 1 - gammas[1], 1 - gammas[0]
        known["widths"] = {"trained": [low, high]}
        warnings.append(f"widths outside {low:g} to {high:g} were not trained as a whole")
    if not metrics:
        warnings.append("its accuracy has not been measured: neumeta eval")
    return known | {"warnings": warnings}


def _checkpoint(path: Path, weights: Weights, opening: Callable[[], Checkpoint]) -> dict[str, Any]:
    known = {name: value for name, value in weights.metadata.items() if name != "digest"}
    known |= {"kind": "checkpoint", "provenance": {"sha256": file_hash(path)}}
    try:
        checkpoint = opening()
    except NeumetaError as error:
        return known | {"warnings": [f"architecture not known: {error}"]}
    others = ", ".join(arch.name for arch in checkpoint.others)
    warnings = [f"fits {others} too"] if others else []
    try:
        cost = measure_cost(checkpoint.model, checkpoint.input_size)
        known |= {"parameters": cost.parameters, "macs": cost.macs}
    except Exception as error:  # whatever a network raises on inputs that it is not made for
        size = "×".join(map(str, checkpoint.input_size))
        warnings.append(f"cost not known: inputs of {size} do not pass ({first_line(error)})")
    return known | {
        "arch": checkpoint.arch.as_dict(),
        "input_size": list(checkpoint.input_size),
        "source": checkpoint.source(),
        "warnings": warnings,
    }
