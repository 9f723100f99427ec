"""Files that are damaged, or made to do harm: found before they are used."""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neumeta_cli.documents import read_json
from neumeta_cli.errors import NeumetaError

DIGEST = "digest"  # the key in our metadata
BLANK = "0" * 64  # in place of a checksum while it is computed
MOST_GROWTH = 8  # times its size that a file's content may take in memory; tied weights count twice
ALLOWANCE = 1 << 20  # bytes beyond that
CHUNK = 1 << 20  # bytes that are read at once


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes and values of tensors, and over all metadata but itself."""
    rest = {key: value for key, value in metadata.items() if key != DIGEST}
    total = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def check_digest(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Refuse a file of ours whose content is not what was written; older ones do not tell.

    Raises:
        NeumetaError: it is not.

    """
    if DIGEST in metadata and metadata[DIGEST] != digest(tensors, metadata):
        raise NeumetaError(
            f"{path} is damaged: its content does not match its checksum; copy or write it again"
        )


def seal(content: bytes) -> bytes:
    """A file that says ``BLANK`` of its checksum, with its SHA-256 there."""
    checksum = hashlib.sha256(content).hexdigest()
    return content.replace(_said(BLANK), _said(checksum), 1)


def is_sealed(content: bytes, metadata: Mapping[str, Any]) -> bool:
    """Whether a file is as ``seal`` gave it; true of files that say nothing of a checksum.

    Args:
        content: of the file.
        metadata: what it says of itself.

    """
    if DIGEST not in metadata:
        return True
    checksum = str(metadata[DIGEST])
    before, _, after = content.partition(_said(checksum))
    total = hashlib.sha256(before)
    for part in (_said(BLANK), after):
        total.update(part)
    return total.hexdigest() == checksum


def _said(checksum: str) -> bytes:
    """As it stands in JSON within JSON or other texts."""
    return json.dumps({DIGEST: checksum})[1:-1].encode()


def check_archive(path: Path) -> None:
    """Refuse a zip archive that unpacks to far more than its own size.

    Raises:
        NeumetaError: it does.

    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # zipfile raises many kinds on damaged files
        raise NeumetaError(
            f"cannot read {path}: its archive is damaged ({first_line(error)})"
        ) from error
    _check_growth(path, unpacked)


def check_records(path: Path) -> None:
    """Refuse a zip archive some of whose records do not match their checksums.

    Where none does it was written without any (``torch.serialization.set_crc32_options(False)``).

    Raises:
        NeumetaError: some do not.

    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        damaged = [name for name in names if not _is_whole(archive, name)]
    if 0 < len(damaged) < len(names):
        raise NeumetaError(
            f"{path} is damaged: {damaged[0]} in it does not match its checksum; "
            "copy or download it again"
        )


def _is_whole(archive: zipfile.ZipFile, name: str) -> bool:
    try:
        with archive.open(name) as record:
            while record.read(CHUNK):
                pass
    except Exception:  # zipfile raises many kinds on damaged files
        return False
    return True


def check_sizes(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that repeat a few stored values to far more than the file's size.

    Raises:
        NeumetaError: they do.

    """
    sizes = {name: t.numel() * t.element_size() for name, t in tensors.items()}
    largest = max(sizes, key=lambda name: sizes[name], default="")
    expanded = f", most of it in the expanded tensor {largest} (save it with .contiguous())"
    repeats = (
        largest and tensors[largest].layout is torch.strided and 0 in tensors[largest].stride()
    )
    _check_growth(path, sum(sizes.values()), expanded if repeats else "")


def _check_growth(path: Path, size: int, where: str = "") -> None:
    if size > MOST_GROWTH * path.stat().st_size + ALLOWANCE:
        raise NeumetaError(f"{path} would take {size:,} bytes of memory{where}; it is not read")


def parse_metadata(path: Path, text: str) -> dict[str, Any]:
    """Our JSON out of a file.

    Raises:
        NeumetaError: it is no JSON object.

    """
    try:
        document = read_json(text)
    except ValueError as error:
        raise NeumetaError(f"cannot read {path}: its neumeta metadata is damaged") from error
    if not isinstance(document, dict):
        raise NeumetaError(f"cannot read {path}: its neumeta metadata is no JSON object")
    return document


@contextmanager
def refusing(path: Path, what: str) -> Iterator[None]:
    """Turn whatever goes wrong with a file's content into one line: ``path is a damaged what``.

    A file can say anything of itself, so that any step may fail in any way.
    """
    try:
        yield
    except NeumetaError:
        raise
    except Exception as error:
        raise NeumetaError(f"{path} is a damaged {what}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error, or its kind where it has no text; of pydantic's, the fault."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}".removeprefix(": ")[:160]
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
