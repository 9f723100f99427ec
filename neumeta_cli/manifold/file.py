"""The manifold's file: one ``.safetensors`` with the INR, the fixed tensors and JSON metadata."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from neumeta_cli.checkpoint import (
    COMPACT_VERSION,
    FORMAT_VERSION,
    MANIFOLD,
    Weights,
    check_version,
    first_line,
    keep_given,
    parse_size,
    read_weights,
    recorded_arch,
    refusing,
    was_given,
    write_weights,
)
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold.blueprint import Blueprint, Provenance, rebuild_frame
from neumeta_cli.manifold.calibration import CalibrationSet
from neumeta_cli.manifold.inr import KINDS, InrSettings, inr_settings, own_fields
from neumeta_cli.manifold.manifold import Manifold
from neumeta_cli.manifold.settings import NoiseSection
from neumeta_cli.manifold.storage import under
from neumeta_cli.manifold.stream import decode, encode

STREAM = "stream"  # the one tensor that a compact file has of the INR and what is out of scope
CALIBRATION = "calibration."  # begins the names of the tensors of calibration images
MOST_PIECES = 64  # layers or knots of an INR, unless the file holds tensors for more


def blueprint_to_json(blueprint: Blueprint) -> dict[str, Any]:
    """A blueprint as plain JSON types."""
    return {
        "arch": blueprint.arch.as_dict(),
        "input_size": list(blueprint.input_size),
        "fold": blueprint.fold,
        "scope": list(blueprint.scope),
        "heads": blueprint.heads,
    }


def blueprint_from_json(document: dict[str, Any], trust_code: bool = False) -> Blueprint:
    """The reverse of ``blueprint_to_json``.

    Raises:
        NeumetaError: the file names a user's own code that has not been named here, or a factory's
            unusual arguments, and ``trust_code`` is false.
        KeyError, ValueError, TypeError: it is no blueprint.

    """
    recorded = document["arch"]
    trusted = trust_code or was_given(str(recorded["name"]), recorded["kwargs"])
    arch = recorded_arch(recorded, trusted)
    scope = tuple(map(str, document["scope"]))
    heads = str(document.get("heads", "width"))
    size, fold = parse_size(document["input_size"]), bool(document["fold"])
    return Blueprint(arch, size, fold, scope, heads)


def save_manifold(path: Path, manifold: Manifold) -> Path:
    """Write a manifold, atomically; the ending must be ``.safetensors``.

    Raises:
        NeumetaError: another ending, or the file cannot be written.

    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise NeumetaError(f"cannot write {path}: a manifold's file ends in .safetensors")
    compact = manifold.inr.settings.store == "compact"
    tensors = {name: tensor.cpu() for name, tensor in manifold.packed().items()}
    if compact:
        tensors = {STREAM: encode(tensors, manifold.part)}
    if len(manifold.calibration):
        calibration = manifold.calibration.packed()
        tensors |= {f"{CALIBRATION}{name}": t.cpu() for name, t in calibration.items()}
    metadata = {
        "kind": MANIFOLD,
        "format_version": COMPACT_VERSION if compact else FORMAT_VERSION,
        **blueprint_to_json(manifold.blueprint),
        "normalisation": {
            "layers": manifold.inr.space.layers,
            "largest": manifold.inr.space.largest,
        },
        "inr": manifold.inr.settings.model_dump(),
        "noise": manifold.noise.model_dump(),
        "provenance": asdict(manifold.provenance),
    }
    if not compact:  # which lacks what a reader finds out again
        metadata["cliques"] = [clique.as_dict() for clique in manifold.frame.cliques]
    return write_weights(path, Weights(tensors, metadata))


def load_manifold(path: Path, trust_code: bool = False) -> Manifold:
    """Read a manifold.

    Args:
        path: a file that ``save_manifold`` wrote.
        trust_code: import the user's module that the file names, if it names one.

    Raises:
        NeumetaError: not a manifold, damaged, or written by a newer neumeta.

    """
    path = Path(path)
    weights = read_weights(path)
    check_version(path, weights.metadata, MANIFOLD)
    with refusing(path, MANIFOLD):
        manifold = _rebuild(weights, trust_code)
        provenance = TypeAdapter(Provenance)
        manifold.provenance = provenance.validate_python(weights.metadata["provenance"])
    return manifold


def bytes_by_part(path: Path, tensors: Mapping[str, Tensor], manifold: Manifold) -> dict[str, int]:
    """What a manifold's file is made of, in bytes that add up to its size.

    Args:
        path: the file.
        tensors: in it.
        manifold: that it gives.

    """
    taken: Counter[str] = Counter()
    for name, tensor in tensors.items():
        if name == STREAM:
            taken.update(decode(tensor, manifold.packed(), manifold.part)[1])
        else:
            images = name.startswith(CALIBRATION)
            part = "calibration images" if images else manifold.part(name)
            taken[part] += tensor.numel() * tensor.element_size()
    rest = path.stat().st_size - taken.total()
    return dict(sorted(taken.items())) | {"header and metadata": rest}


def check_opens(path: Path) -> None:
    """Make sure that a manifold's file gives a network, before anybody is told of success.

    Code of a user's own that it names has been named for the fit, and is remembered.

    Raises:
        NeumetaError: it does not.

    """
    try:
        manifold = load_manifold(path, trust_code=True)
        manifold.sample(1.0, samples=0)
    except Exception as error:  # whatever a network raises
        raise NeumetaError(
            f"{path} was written and cannot be used: {first_line(error)}; please report this "
            "architecture"
        ) from error
    keep_given(manifold.arch.name, manifold.arch.kwargs)
    keep_given(str(manifold.provenance.recipe.get("task", "")), {})


def _rebuild(weights: Weights, trust_code: bool) -> Manifold:
    metadata = weights.metadata
    blueprint = blueprint_from_json(metadata, trust_code)
    inr, noise = _inr_settings(weights), NoiseSection(**metadata["noise"])
    frame = rebuild_frame(blueprint)
    with torch.device("meta"):
        own = frame.model.state_dict()
        empty = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in own.items()}
        manifold = Manifold(blueprint.arch, frame, blueprint.fold, empty, inr, noise)
    packed = weights.tensors
    if inr.store == "compact":
        if STREAM not in packed:
            raise ValueError("it has no stream of weights")
        packed = decode(packed[STREAM], manifold.packed(), manifold.part)[0]
    stored, fixed = manifold.unpacked(packed)
    wanted = manifold.inr.state_dict()
    for name, tensor in (stored | fixed).items():
        _check_numbers(name, tensor, wanted.get(name, own.get(name)), name in stored)
    manifold.inr.load_state_dict(stored, assign=True)
    manifold.put_fixed(fixed)
    manifold.calibration = CalibrationSet()
    if images := under(CALIBRATION, weights.tensors):
        manifold.calibration.unpack(images)
        if tuple(manifold.calibration.pixels.shape[1:]) != blueprint.input_size:
            raise ValueError("its calibration images are not of its input size")
    manifold.inr.check()
    lacking = [name for name, tensor in manifold.fixed.items() if tensor.is_meta]
    if lacking:
        raise ValueError(f"it lacks {lacking[0]}")
    return manifold.requires_grad_(False).eval()


def _check_numbers(name: str, tensor: Tensor, like: Tensor | None, learnt: bool) -> None:
    """Raise ValueError if a tensor is of another type than it should be, or holds no numbers."""
    if like is not None and tensor.dtype != like.dtype:
        raise ValueError(f"{name} is {tensor.dtype}, not {like.dtype}")
    if tensor.is_floating_point() and not bool(
        (tensor.isfinite() if learnt else ~tensor.isnan()).all()
    ):
        raise ValueError(f"{name} has values that are no numbers")


def _inr_settings(weights: Weights) -> InrSettings:
    version = weights.metadata["format_version"]
    settings = inr_settings(**own_fields(weights.metadata["inr"]))
    if version < KINDS[settings.kind].oldest_format:
        raise ValueError(
            f"its format {version} of {settings.kind} INRs is no longer read; fit it again"
        )
    if settings.pieces > max(MOST_PIECES, len(weights.tensors)):
        raise ValueError(f"its INR would have {settings.pieces} layers or knots")
    return settings
