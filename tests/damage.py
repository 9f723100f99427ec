"""Files that are damaged, or made to do harm: how they are made, and what is done with them."""

import copy
import json
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from manifolds import saved_manifold
from safetensors.torch import load_file, save_file
from tally import Wrong

from neumeta_cli.checkpoint import read_weights
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export import describe, export_network, load
from neumeta_cli.export.programs import PROGRAMS, Running
from neumeta_cli.manifold import load_manifold

Change = Callable[[dict[str, Any]], None]
STRANGE = [
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    "",
    "os:system",
    "..",
    [],
    [[]],
    {},
    {"a": {}},
    "x" * 9999,
]


def whole_files(folder: Path) -> dict[str, Path]:
    """A manifold, and a network of its own in each format of weights."""
    manifold = saved_manifold(folder)
    loaded = load_manifold(manifold)
    made = {s: export_network(loaded, folder / f"n{s}", 0.25).path for s in (".safetensors", ".pt")}
    plain = folder / "lenet_digits.pth"
    torch.save(loaded.sample(1.0).state_dict(), plain)
    return {
        "manifold": manifold,
        "network": made[".safetensors"],
        "pt": made[".pt"],
        "plain": plain,
    }


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Whatever a file says, no command, and no import of a module that it names."""
    called: list[object] = []
    names = ("system", "popen", "execv", "_exit", "remove")
    before = {name: getattr(os, name) for name in names}
    modules = set(sys.modules)
    for name in names:
        setattr(os, name, lambda *given, name=name: called.append((name, given)))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(os, name, function)
    if called or "antigravity" in set(sys.modules) - modules:
        raise Wrong(f"code of a file was run: {called}")


@contextmanager
def no_search() -> Iterator[None]:
    """Where a flip hides that a file is ours, its names would be compared with all of timm's."""
    from neumeta_cli.checkpoint import load as loading

    def fits_none(path: Path, *_: Any) -> None:
        raise NeumetaError(f"{path} fits no architecture")

    before = loading.detect_arch
    loading.detect_arch = fits_none  # type: ignore[assignment]
    try:
        yield
    finally:
        loading.detect_arch = before


def is_one_line(error: NeumetaError, path: Path | str = "") -> bool:
    assert str(path) in str(error)
    assert "\n" not in str(error)
    return True


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """Some bits flipped, mostly near the ends, where formats keep what they live by; or cut."""
    if rng.random() < 0.25:
        return whole[: rng.randrange(len(whole))]
    content = bytearray(whole)
    for _ in range(rng.choice([1, 1, 1, 2, 8, 64])):
        span = rng.choice([16, 600, len(whole)])
        place = rng.randrange(min(span, len(whole)))
        content[-1 - place if rng.random() < 0.4 else place] ^= 1 << rng.randrange(8)
    return bytes(content)


def read_again(path: Path, whole: Path, which: str) -> None:
    """Load a damaged copy of one of ``whole_files`` or of a program.

    Raises:
        Wrong: it was taken, and its tensors or outputs are not those of the whole file.
        NeumetaError: it was refused, in a line that names it.

    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if which in PROGRAMS:
                describe(path)
                got = _outputs(path)
            else:
                load(path, arch="lenet_digits" if which == "plain" else None)
                got = read_weights(path).tensors
    except NeumetaError as error:
        is_one_line(error, path)
        raise
    wanted = _outputs(whole) if which in PROGRAMS else read_weights(whole).tensors
    if not all(torch.equal(got[name], tensor) for name, tensor in wanted.items()):
        raise Wrong("others than the whole file gives")


def _outputs(path: Path) -> dict[str, torch.Tensor]:
    program = Running(path)
    size = program.metadata["input_size"]
    return {"": program(torch.randn(2, *size, generator=torch.Generator().manual_seed(0)))}


def rewritten(source: Path, target: Path, change: Change) -> Path:
    """A file with other metadata and no checksum, as anybody can make one."""
    metadata = copy.deepcopy(read_weights(source).metadata)
    del metadata["digest"]
    change(metadata)
    save_file(load_file(source), target, {"neumeta": json.dumps(metadata)})
    return target


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON document."""
    if path:
        yield path
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))
        else:
            yield (*path, key)


def put(document: Any, place: tuple[Any, ...], value: Any) -> None:
    """Something else at a place of a document, or nothing if ``value`` is KeyError."""
    for key in place[:-1]:
        document = document[key]
    if value is KeyError:
        del document[place[-1]]
    else:
        document[place[-1]] = value
