"""Reading and writing weight files without ever running code from them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neumeta_cli.checkpoint.atomic import write_atomically
from neumeta_cli.checkpoint.files import PICKLE_SUFFIXES, SUFFIXES, require_there, suffix_of
from neumeta_cli.checkpoint.integrity import (
    DIGEST,
    check_digest,
    check_sizes,
    digest,
    first_line,
    parse_metadata,
)
from neumeta_cli.checkpoint.nesting import choose_state, is_asked, under
from neumeta_cli.checkpoint.pickles import read_pickle
from neumeta_cli.checkpoint.signs import check_signs
from neumeta_cli.errors import NeumetaError

PROGRAMS = (".onnx", ".pt2")
MOST_LISTED = 8  # keys that a message lists
METADATA_KEY = "neumeta"  # our JSON: in the safetensors header, or beside "state_dict" in a pickle


@dataclass(frozen=True)
class Weights:
    """The tensors of a weights file.

    Attributes:
        tensors: by name, once a network is known by the names that it uses.
        metadata: our own JSON document, empty in files that others wrote.
        names: name of a tensor to that in the file, for those that differ.
        envelope: the whole object as read, so that writing it back keeps what else it held.
        wrapper: the keys under which the state dict lay inside ``envelope``.
        copies: keys or prefixes of other state dicts in the file, such as averaged weights.
        left_out: names in the file for which the network has no place.
        key: the keys and the prefix under which the tensors lay, joined with dots; empty for none.

    """

    tensors: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    envelope: Any = None
    wrapper: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    key: str = ""

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> "Weights":
        """The same file with other tensors under the same names."""
        return replace(self, tensors=dict(tensors))

    def name_in_file(self, name: str) -> str:
        """What a tensor is called in the file."""
        return self.names.get(name, name)


def read_weights(path: Path, key: str | None = None) -> Weights:
    """Read a ``.pth``, ``.pt``, ``.bin``, ``.ckpt``, ``.pkl``, ``.pth.tar`` or ``.safetensors``.

    Args:
        path: the file.
        key: which of several state dicts in it: its key, its keys joined with dots, or the prefix
            of its names.

    Raises:
        NeumetaError: no such file, an unknown ending, an empty, truncated or corrupt file, a
            pickle that carries code (it is not run), one of ours whose content does not match its
            checksum, content of far more than the file's size, several state dicts of which none
            is chosen, or no tensors inside.

    """
    path = Path(path)
    require_there(path)
    if path.is_dir():
        raise NeumetaError(f"{path} is a folder; give a weights file ({', '.join(SUFFIXES)})")
    if suffix_of(path) in PROGRAMS:
        raise NeumetaError(
            f"{path} is a program, not weights; give the network that it was made of, as .pt or "
            ".safetensors"
        )
    if suffix_of(path) not in SUFFIXES:
        raise NeumetaError(f"{path}: unknown ending {path.suffix!r}; known: {', '.join(SUFFIXES)}")
    if path.stat().st_size == 0:
        raise NeumetaError(f"{path} is empty; copy or download it again")
    check_signs(path)
    if suffix_of(path) == ".safetensors":
        weights = _read_safetensors(path)
    else:
        weights = _unwrap(path, read_pickle(path), key)
    check_sizes(path, weights.tensors)
    check_digest(path, weights.tensors, weights.metadata)
    if not weights.tensors:
        raise NeumetaError(f"{path} holds no state dict of tensors{_seen(weights)}")
    return weights if is_asked(weights.wrapper, key) else _under_prefix(path, weights, str(key))


def write_weights(path: Path, weights: Weights) -> Path:
    """Write ``weights`` in the format that the ending of ``path`` names, atomically.

    Where they have metadata, these get a checksum of the whole content.
    """
    path = Path(path)
    tensors = {weights.name_in_file(n): t.contiguous() for n, t in weights.tensors.items()}
    if weights.metadata:
        metadata = json.loads(json.dumps(weights.metadata))  # as it will be read
        metadata[DIGEST] = digest(tensors, metadata)
        weights = replace(weights, metadata=metadata)
    if suffix_of(path) == ".safetensors":
        header = {"format": "pt"}
        if weights.metadata:
            header[METADATA_KEY] = json.dumps(weights.metadata)
        unshared = {name: t.clone() for name, t in tensors.items()}
        return write_atomically(path, lambda file: save_file(unshared, file, header))
    if suffix_of(path) in PICKLE_SUFFIXES:
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
    return Weights(tensors, metadata)


def _unwrap(path: Path, content: Any, asked: str | None) -> Weights:
    if not isinstance(content, Mapping):
        raise NeumetaError(
            f"{path} holds a {type(content).__name__}, not a state dict of tensors; save "
            "model.state_dict() in it"
        )
    wrapper, copies = choose_state(path, content, asked)
    state = under(content, wrapper)
    metadata: dict[str, Any] = {}
    if isinstance(content.get(METADATA_KEY), str):
        metadata = parse_metadata(path, content[METADATA_KEY])
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor) and isinstance(k, str)}
    key = ".".join(wrapper)
    return Weights(tensors, metadata, {}, content, wrapper, tuple(copies), key=key)


def _seen(weights: Weights) -> str:
    """What a file without a state dict has instead, and what to do."""
    keys = list(weights.envelope or ())
    has = f", but {', '.join(map(str, keys[:MOST_LISTED]))}" if keys else ""
    return f"{has}; save model.state_dict() in it"


def _under_prefix(path: Path, weights: Weights, key: str) -> Weights:
    """Only the tensors whose names begin with ``key`` and a dot, without these."""
    prefix = f"{key.removeprefix(f'{weights.key}.')}."
    names = {n.removeprefix(prefix): n for n in weights.tensors if n.startswith(prefix)}
    if not names:
        keys = [weights.key, *weights.copies]
        tops = sorted({name.partition(".")[0] for name in weights.tensors})
        raise NeumetaError(
            f"{path} has nothing under {key!r}; it has "
            f"{', '.join(k for k in keys if k) or ', '.join(tops[:MOST_LISTED])}"
        )
    tensors = {name: weights.tensors[old] for name, old in names.items()}
    whole = ".".join(part for part in (weights.key, prefix.removesuffix(".")) if part)
    return replace(weights, tensors=tensors, names=names, key=whole)


def _wrap(weights: Weights, tensors: dict[str, Tensor]) -> Any:
    if weights.envelope is None:
        if not weights.metadata:
            return tensors
        return {"state_dict": tensors, METADATA_KEY: json.dumps(weights.metadata)}

    own = {METADATA_KEY: json.dumps(weights.metadata)} if weights.metadata else {}

    def rebuilt(level: Any, keys: tuple[str, ...], above: str = "") -> dict[str, Any]:
        # Copies are of the weights as they were, so that a file with others is without them.
        kept = {k: v for k, v in level.items() if f"{above}{k}" not in weights.copies}
        if keys:
            return {**kept, keys[0]: rebuilt(level[keys[0]], keys[1:], f"{above}{keys[0]}.")}
        prefixes = tuple(f"{copy}." for copy in weights.copies)
        return {k: v for k, v in kept.items() if not str(k).startswith(prefixes)} | tensors

    whole = rebuilt(weights.envelope, weights.wrapper)
    return {key: value for key, value in whole.items() if key != METADATA_KEY} | own
