"""Reading and writing weight files without ever running code from them."""

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neumeta_cli.checkpoint.atomic import write_atomically
from neumeta_cli.checkpoint.integrity import (
    DIGEST,
    check_archive,
    check_digest,
    check_sizes,
    digest,
    first_line,
    parse_metadata,
)
from neumeta_cli.errors import NeumetaError

PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
SUFFIXES = (*PICKLE_SUFFIXES, ".safetensors")
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "state_dict_ema")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
METADATA_KEY = "neumeta"  # our JSON: in the safetensors header, or beside "state_dict" in a pickle


@dataclass(frozen=True)
class Weights:
    """The tensors of a weights file under the names that the model uses.

    Attributes:
        tensors: name to tensor, wrappers and prefixes such as ``module.`` taken off.
        metadata: our own JSON document, empty in files that others wrote.
        prefix: what was taken off every name.
        envelope: the whole object as read, so that writing it back keeps what else it held.
        wrapper: the keys under which the state dict lay inside ``envelope``.

    """

    tensors: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)
    prefix: str = ""
    envelope: Any = None
    wrapper: tuple[str, ...] = ()

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> "Weights":
        """The same file with other tensors under the same names."""
        return replace(self, tensors=dict(tensors))


def read_weights(path: Path) -> Weights:
    """Read a ``.pth``, ``.pt``, ``.bin``, ``.ckpt`` or ``.safetensors`` file.

    Raises:
        NeumetaError: no such file, an unknown ending, an empty, truncated or corrupt file, a
            pickle that carries code (it is not run), one of ours whose content does not match its
            checksum, content of far more than the file's size, or no tensors inside.

    """
    path = Path(path)
    if not path.exists():
        raise NeumetaError(f"no such file: {path}")
    if path.is_dir():
        raise NeumetaError(f"{path} is a folder; give a weights file ({', '.join(SUFFIXES)})")
    if path.suffix not in SUFFIXES:
        raise NeumetaError(f"{path}: unknown ending {path.suffix!r}; known: {', '.join(SUFFIXES)}")
    if path.stat().st_size == 0:
        raise NeumetaError(f"{path} is empty; copy or download it again")
    if path.suffix == ".safetensors":
        weights = _read_safetensors(path)
    else:
        weights = _unwrap(path, _unpickle(path))
    check_sizes(path, weights.tensors)
    check_digest(path, weights.tensors, weights.metadata)
    if not weights.tensors:
        raise NeumetaError(f"{path} holds no tensors; save model.state_dict() in it")
    return weights


def write_weights(path: Path, weights: Weights) -> Path:
    """Write ``weights`` in the format that the ending of ``path`` names, atomically.

    Where they have metadata, these get a checksum of the whole content.
    """
    path = Path(path)
    tensors = {weights.prefix + name: t.contiguous() for name, t in weights.tensors.items()}
    if weights.metadata:
        metadata = json.loads(json.dumps(weights.metadata))  # as it will be read
        metadata[DIGEST] = digest(tensors, metadata)
        weights = replace(weights, metadata=metadata)
    if path.suffix == ".safetensors":
        header = {"format": "pt"}
        if weights.metadata:
            header[METADATA_KEY] = json.dumps(weights.metadata)
        unshared = {name: t.clone() for name, t in tensors.items()}
        return write_atomically(path, lambda file: save_file(unshared, file, header))
    if path.suffix in PICKLE_SUFFIXES:
        content = _wrap(weights, tensors)
        return write_atomically(path, lambda file: torch.save(content, file))
    raise NeumetaError(f"cannot write {path}: use one of the endings {', '.join(SUFFIXES)}")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # Copies, because the file's tensors are not aligned and kernels then round otherwise.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise NeumetaError(
            f"cannot read {path}: not a whole safetensors file ({first_line(error)})"
        ) from error
    metadata = parse_metadata(path, header[METADATA_KEY]) if METADATA_KEY in header else {}
    names, prefix = _strip_prefix(tensors, metadata)
    return Weights(names, metadata, prefix)


def _unpickle(path: Path) -> Any:
    check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "Unsupported" in str(error):
            raise NeumetaError(
                f"{path} carries pickled Python code, which is never run; "
                "save model.state_dict() alone, or convert the file to .safetensors"
            ) from error
        raise NeumetaError(f"cannot read {path}: not a PyTorch weights file") from error
    except Exception as error:  # torch raises many kinds on damaged files
        raise NeumetaError(
            f"cannot read {path}: truncated or damaged ({first_line(error)})"
        ) from error


def _unwrap(path: Path, content: Any) -> Weights:
    state, wrapper = content, []
    while isinstance(state, Mapping):
        inner = next((k for k in WRAPPERS if isinstance(state.get(k), Mapping)), None)
        if inner is None:
            break
        wrapper.append(inner)
        state = state[inner]
    if not isinstance(state, Mapping):
        raise NeumetaError(f"{path} holds a {type(state).__name__}, not a state dict of tensors")
    metadata: dict[str, Any] = {}
    if isinstance(content, Mapping) and isinstance(content.get(METADATA_KEY), str):
        metadata = parse_metadata(path, content[METADATA_KEY])
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor) and isinstance(k, str)}
    names, prefix = _strip_prefix(tensors, metadata)
    return Weights(names, metadata, prefix, content, tuple(wrapper))


def _wrap(weights: Weights, tensors: dict[str, Tensor]) -> Any:
    if weights.envelope is None:
        if not weights.metadata:
            return tensors
        return {"state_dict": tensors, METADATA_KEY: json.dumps(weights.metadata)}

    def rebuilt(level: Any, keys: tuple[str, ...]) -> dict[str, Any]:
        if keys:
            return {**level, keys[0]: rebuilt(level[keys[0]], keys[1:])}
        return {**level, **tensors}

    return rebuilt(weights.envelope, weights.wrapper)


def _strip_prefix(
    tensors: dict[str, Tensor], metadata: Mapping[str, Any]
) -> tuple[dict[str, Tensor], str]:
    """Take off what wrappers put before every name; files of ours have a network's own names."""
    stripped = ""
    if metadata:
        return tensors, stripped
    while prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in tensors)), ""):
        if not tensors:
            break
        tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
        stripped += prefix
    return tensors, stripped
