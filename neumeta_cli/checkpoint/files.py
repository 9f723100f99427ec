"""Files of weights by their names, before anything is read of them; needs no torch."""

from pathlib import Path

from neumeta_cli.errors import NeumetaError

# The last is that of .pth.tar, which is no tar archive.
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle", ".th", ".pyth", ".tar")
SUFFIXES = (*PICKLE_SUFFIXES, ".safetensors")


def suffix_of(path: Path) -> str:
    """The ending that tells a file's format, in lower case."""
    return Path(path).suffix.lower()


def require_there(path: Path | None) -> None:
    """Refuse a path where nothing is; None, where no file was named, passes.

    Commands ask this before they import what takes longer.

    Raises:
        NeumetaError: names it.

    """
    if path is not None and not Path(path).exists():
        raise NeumetaError(f"no such file: {path}")
