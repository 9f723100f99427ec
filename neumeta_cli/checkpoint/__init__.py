"""Reading and writing weights safely, and which architecture they belong to."""

from neumeta_cli.checkpoint.arch import Arch, import_attribute, recorded_arch, resolve
from neumeta_cli.checkpoint.assign import other_names, put_tensors, take_weights
from neumeta_cli.checkpoint.atomic import write_atomically, write_text
from neumeta_cli.checkpoint.integrity import check_archive, first_line, parse_metadata, refusing
from neumeta_cli.checkpoint.load import (
    Checkpoint,
    InputSize,
    load_checkpoint,
    materialise,
    parse_size,
)
from neumeta_cli.checkpoint.usable import check_resizable
from neumeta_cli.checkpoint.weights import (
    METADATA_KEY,
    SUFFIXES,
    Weights,
    file_hash,
    read_weights,
    suffix_of,
    write_weights,
)

__all__ = [
    "METADATA_KEY",
    "SUFFIXES",
    "Arch",
    "Checkpoint",
    "InputSize",
    "Weights",
    "check_archive",
    "check_resizable",
    "file_hash",
    "first_line",
    "import_attribute",
    "load_checkpoint",
    "materialise",
    "other_names",
    "parse_metadata",
    "parse_size",
    "put_tensors",
    "read_weights",
    "recorded_arch",
    "refusing",
    "resolve",
    "suffix_of",
    "take_weights",
    "write_atomically",
    "write_text",
    "write_weights",
]
