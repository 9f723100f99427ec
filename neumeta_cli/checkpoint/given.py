"""Code of a user's own that was named here before, so that its files need no permission again.

Whoever names code, in ``--arch`` or in a recipe, lets it run. A file of ours names code too, but
may be anybody's. What it names runs without a question only where the user has named the same thing
with the same arguments in the same folder, and no source file of that code is another one now.
"""

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import neumeta_cli.checkpoint.known as known
from neumeta_cli.checkpoint.atomic import write_text
from neumeta_cli.checkpoint.weights import file_hash
from neumeta_cli.documents import read_json
from neumeta_cli.errors import NeumetaError

FILE = "own-code.json"  # beside the names of architectures
MOST = 200  # that are kept, the newest
NOT_THEIRS = frozenset(("__main__", "neumeta_cli"))
LIBRARIES = frozenset(("site-packages", "dist-packages"))

Sources = dict[str, list[str]]  # of each module its file, and that file's hash


def keep_given(name: str, kwargs: Mapping[str, Any]) -> None:
    """Remember code that a user has named and that has been imported.

    Args:
        name: ``package.module:factory``; a library's architecture is nothing to remember.
        kwargs: what it was called with.

    """
    file, arguments = _file(), _plain(kwargs)
    sources = _sources(name.partition(":")[0]) if ":" in name else {}
    if file is None or arguments is None or not sources:
        return
    key = _key(name, arguments)
    others = [one for one in _read(file) if {field: one.get(field) for field in key} != key]
    entries = [*others, key | {"sources": sources}][-MOST:]
    with contextlib.suppress(NeumetaError):  # a folder that cannot be written
        write_text(file, json.dumps({"given": entries}))


def needs_permission(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a file that names this is opened with ``--trust-code`` only."""
    return ":" in name and not was_given(name, kwargs)


def was_given(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a user has named this code in this folder, and it is still the same; imports none."""
    file, arguments = _file(), _plain(kwargs)
    if file is None or arguments is None or ":" not in name:
        return False
    key = _key(name, arguments)
    for one in _read(file):
        if {field: one.get(field) for field in key} == key:
            with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
                return all(
                    _found(module) == path and file_hash(Path(path)) == digest
                    for module, (path, digest) in one["sources"].items()
                )
    return False


def _file() -> Path | None:
    beside = known.cache_file()
    return None if beside is None else beside.with_name(FILE)


def _key(name: str, arguments: Any) -> dict[str, Any]:
    return {"name": name, "kwargs": arguments, "folder": str(Path.cwd())}


def _plain(kwargs: Mapping[str, Any]) -> Any:
    """Arguments as JSON gives them back; None where it has no form for them."""
    try:
        return json.loads(json.dumps(dict(kwargs)))
    except (TypeError, ValueError):
        return None


def _read(file: Path) -> list[Mapping[str, Any]]:
    try:
        return [one for one in read_json(file.read_text("utf-8"))["given"] if one["sources"]]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _sources(module: str) -> Sources:
    """The files of a module that has been imported, and of those of its folder that it may use."""
    file = _loaded(module)
    if file is None:
        return {}
    package = _loaded(module.partition(".")[0])
    root = Path(package or file).parent
    found: Sources = {}
    for name in list(sys.modules):
        path = _loaded(name)
        if path is None or name.partition(".")[0] in NOT_THEIRS:
            continue
        inside = Path(path).is_relative_to(root)
        if inside and not LIBRARIES & set(Path(path).relative_to(root).parts):
            found[name] = [path, file_hash(Path(path))]
    return found if module in found else {}


def _loaded(module: str) -> str | None:
    """The file of a module that has been imported."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return os.path.abspath(file) if isinstance(file, str) and os.path.isfile(file) else None


def _found(module: str) -> str | None:
    """The file that importing a module takes, without importing it or what it lies in."""
    if module in sys.modules:
        return _loaded(module)
    here, so_far = str(Path.cwd()), ""
    places: Any = sys.path if here in sys.path else [here, *sys.path]
    spec = None
    for part in module.split("."):
        so_far = f"{so_far}.{part}" if so_far else part
        spec = PathFinder.find_spec(so_far, places)
        if spec is None:
            return None
        places = spec.submodule_search_locations
    return None if spec is None or spec.origin is None else os.path.abspath(spec.origin)
