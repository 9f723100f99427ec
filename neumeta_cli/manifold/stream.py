"""Tensors as one stream of bytes, entropy coded, for a reader that knows their types and shapes."""

import lzma
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

Part = Callable[[str], str]
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 4, "lp": 0, "pb": 0, "dict_size": 1 << 20}]
MOST_GROWTH = 64  # times a stream's size that its content may take, zeros for the most part
ALLOWANCE = 1 << 20  # bytes beyond that


def encode(packed: Mapping[str, Tensor], part: Part) -> Tensor:
    """Tensors as one, (n,) uint8: a stream of LZMA2 for each part, one after the other.

    In a part, numbers of a type lie together, their first bytes first.

    Args:
        packed: tensors by name.
        part: which part a tensor is of, by its name.

    """
    streams = []
    for names in _parts(packed, part).values():
        content = b"".join(_planes([packed[n] for n in same]) for same in _types(packed, names))
        streams.append(lzma.compress(content, lzma.FORMAT_RAW, filters=FILTERS))
    return torch.frombuffer(bytearray(b"".join(streams)), dtype=torch.uint8)


def decode(
    stream: Tensor, like: Mapping[str, Tensor], part: Part
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The reverse of ``encode``.

    Args:
        stream: what it gave.
        like: tensors of these names, types and shapes, as on the meta device.
        part: as it was.

    Returns:
        The tensors by name, and how many bytes of the stream each part takes.

    Raises:
        ValueError: it is damaged, or would take far more memory than it has bytes.

    """
    if stream.dtype != torch.uint8 or stream.dim() != 1:
        raise ValueError("its stream of weights is no bytes")
    if _size(like.values()) > MOST_GROWTH * len(stream) + ALLOWANCE:
        raise ValueError(f"its stream of weights would take {_size(like.values()):,} bytes")
    rest, taken = stream.numpy().tobytes(), {}
    packed: dict[str, Tensor] = {}
    for label, names in _parts(like, part).items():
        left = len(rest)
        content, rest = _decompress(rest, _size(like[name] for name in names))
        taken[label] = left - len(rest)
        for same in _types(like, names):
            count = _size(like[name] for name in same)
            packed |= _from_planes(content[:count], {name: like[name] for name in same})
            content = content[count:]
    if rest:
        raise ValueError("its stream of weights goes on behind its end")
    return packed, taken


def _decompress(stream: bytes, size: int) -> tuple[bytes, bytes]:
    """The first of several streams, whose content has this size, and what follows it."""
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=FILTERS)
    try:
        content = decoder.decompress(stream, size + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError("its stream of weights is damaged") from error
    if len(content) != size or not decoder.eof:
        raise ValueError("its stream of weights is not of the size of its INR")
    return content, decoder.unused_data


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _parts(tensors: Mapping[str, Tensor], part: Part) -> dict[str, list[str]]:
    """Names by part, like parameters of different layers beside each other."""
    parts: dict[str, list[str]] = {}
    for name in sorted(tensors, key=lambda name: name.split(".")[::-1]):
        parts.setdefault(part(name), []).append(name)
    return {label: parts[label] for label in sorted(parts)}


def _types(tensors: Mapping[str, Tensor], names: Iterable[str]) -> list[list[str]]:
    """Names of tensors of each type."""
    types: dict[str, list[str]] = {}
    for name in names:
        types.setdefault(str(tensors[name].dtype), []).append(name)
    return [types[dtype] for dtype in sorted(types)]


def _planes(tensors: Iterable[Tensor]) -> bytes:
    values = torch.cat([tensor.detach().cpu().reshape(-1) for tensor in tensors])
    planes = values.view(torch.uint8).view(-1, values.element_size()).T
    return planes.contiguous().numpy().tobytes()


def _from_planes(content: bytes, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    counts = [tensor.numel() for tensor in like.values()]
    values = torch.empty(sum(counts), dtype=next(iter(like.values())).dtype)
    planes = np.frombuffer(content, np.uint8).reshape(values.element_size(), -1)
    values.view(torch.uint8).view(-1, len(planes)).copy_(torch.from_numpy(planes.T.copy()))
    parts = values.split(counts)
    pairs = zip(like.items(), parts, strict=True)
    return {name: part.view(tensor.shape).clone() for (name, tensor), part in pairs}
