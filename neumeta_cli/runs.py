"""Where runs lie."""

from pathlib import Path

from neumeta_cli.errors import NeumetaError

RUNS = Path("runs")
MANIFOLD_FILE = "manifold.safetensors"


def latest_manifold() -> Path:
    """The manifold of the run that finished last.

    Raises:
        NeumetaError: no run has finished here.

    """
    path = RUNS / "latest" / MANIFOLD_FILE
    if not path.is_file():
        raise NeumetaError(
            f"no manifold given and no {path} here; run neumeta fit first, or name the file"
        )
    return path
