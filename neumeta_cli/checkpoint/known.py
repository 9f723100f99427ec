"""Names of the tensors of every architecture, so that a search builds few of them."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from neumeta_cli.checkpoint.arch import Arch
from neumeta_cli.checkpoint.atomic import write_text
from neumeta_cli.checkpoint.naming import IGNORED
from neumeta_cli.documents import read_json
from neumeta_cli.errors import NeumetaError

# Changes of values in place, of which a constructor makes thousands. On the meta device there are
# no values, and none of these changes a shape; most of a model's time there goes into them.
VALUES = frozenset(
    [
        *("uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_"),
        *("xavier_uniform_", "constant_", "fill_", "zero_", "clamp_", "erfinv_"),
        *("mul_", "add_", "sub_", "div_"),
    ]
)


class WithoutValues(TorchFunctionMode):
    """Tensors of the meta device are not initialised, which makes models three times as fast."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in VALUES:
            changed = args[0] if args else kwargs.get("tensor")
            if isinstance(changed, torch.Tensor) and changed.is_meta:
                return changed
        return func(*args, **kwargs)


@dataclass(frozen=True)
class Names:
    """What a state dict's names say of the network.

    Attributes:
        digest: of all names but counters of batches; two state dicts go together only where it is
            the same.
        tops: first parts of the names, as ``layer1`` of ``layer1.0.weight``.

    """

    digest: str
    tops: frozenset[str]

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        every = sorted(names)
        counted = "\n".join(name for name in every if not name.endswith(IGNORED))
        digest = hashlib.sha256(counted.encode("utf-8", "surrogatepass")).hexdigest()
        return cls(digest, frozenset(name.partition(".")[0] for name in every))


class KnownNames:
    """Names by architecture, built where they are not known yet.

    What timm and torchvision have is kept in a file of the user's cache folder, one for each
    pair of their versions. A file that is missing, damaged or cannot be written costs time only.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._known = {} if file is None else _read(file)
        self._new = False

    def of(self, arch: Arch) -> Names | None:
        """The names of an architecture's tensors; None if it cannot be built here."""
        if arch.name not in self._known:
            try:
                names = Names.of(arch.build().state_dict())
            except Exception:  # a library's model that cannot be built here fits nothing
                return None  # and is not remembered, since what it lacks may be installed
            self._known[arch.name] = names
            self._new |= _lasting(arch.name)
        return self._known[arch.name]

    def keep(self) -> None:
        """Write what has been learnt, if anything."""
        if self._file is None or not self._new:
            return
        entries = {
            name: [names.digest, *sorted(names.tops)]
            for name, names in sorted(self._known.items())
            if _lasting(name)
        }
        with contextlib.suppress(NeumetaError):  # a folder that cannot be written
            write_text(self._file, json.dumps({"sum": _sum(entries), "entries": entries}))
            self._new = False


@contextlib.contextmanager
def known_names() -> Iterator[KnownNames]:
    """Open what earlier searches learnt, and keep what this one learns however it ends."""
    known = KnownNames(cache_file())
    try:
        with WithoutValues():
            yield known
    finally:
        known.keep()


def cache_file() -> Path | None:
    """Where names are kept; None if the user has no folder of their own."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # there is no home
        return None
    return base / "neumeta" / file_name()


def file_name() -> str:
    """One for each pair of the libraries' versions."""
    return f"names-timm-{version('timm')}-torchvision-{version('torchvision')}.json"


def _read(file: Path) -> dict[str, Names]:
    try:
        document = read_json(file.read_text("utf-8"))
        entries = document["entries"]
        if document["sum"] != _sum(entries):
            return {}
        return {name: Names(digest, frozenset(tops)) for name, (digest, *tops) in entries.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _sum(entries: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _lasting(name: str) -> bool:
    """Whether a name means the same network wherever the libraries' versions are the same.

    Ours change with our code, and users may register networks of their own with timm.
    """
    library, _, bare = name.partition("/")
    if library == "timm":
        import timm

        return str(timm.model_entrypoint(bare).__module__).startswith("timm.")
    return library == "torchvision"
