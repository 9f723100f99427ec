"""A folder with the networks of several widths and an index of them, whole or not at all."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from neumeta_cli.checkpoint import write_text
from neumeta_cli.choices import FAMILY_INDEX
from neumeta_cli.documents import read_json
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate import measure_latency
from neumeta_cli.export.choose.wish import Choice, cost_of
from neumeta_cli.export.precision import accept_float32
from neumeta_cli.export.write import (
    AS_SAMPLED,
    SUFFIXES,
    Finish,
    check_ending,
    export_network,
)
from neumeta_cli.reporting import Reporter, Silent


@dataclass(frozen=True)
class MemberRow:
    """One network of a family, as the index has it.

    Attributes:
        file: its name in the folder.
        width: kept over full channels.
        sizes: channels by clique.
        parameters, macs: of the network, for one input.
        bytes: of the file.
        latency: seconds of a batch of one, where the family was written.
        metrics: as measured now, or as the fit measured them; None if nobody has.

    """

    file: str
    width: float
    sizes: dict[str, int]
    parameters: int
    macs: int
    bytes: int
    latency: float
    metrics: Mapping[str, float] | None


def export_family(
    choice: Choice,
    folder: Path,
    widths: Sequence[float],
    ending: str = ".pt",
    samples: int | None = None,
    finish: Finish = AS_SAMPLED,
    measure: Callable[[nn.Module], Mapping[str, float]] | None = None,
    reporter: Reporter | None = None,
) -> list[MemberRow]:
    """Write the networks of several widths and ``index.json``.

    The folder appears once all of them are written; a family that was there is replaced then.

    Args:
        choice: the networks.
        folder: where to; it may not hold anything but a family.
        widths: one for each network.
        ending: of the files, such as ``.safetensors``.
        samples: K, the manifold's own if None.
        finish: what else is done to each.
        measure: gives metrics; if None the index has what the fit recorded.
        reporter: is told of the progress.

    Raises:
        NeumetaError: the folder holds other things or cannot be written, or a network cannot be
            exported; then nothing has changed.

    """
    folder, reporter = Path(folder).resolve(), reporter or Silent()  # a link stays one
    _refuse_other_things(folder)
    check_ending(folder / f"network{ending}")
    for width in widths:
        cost_of(choice.manifold, choice.sizes(width))  # before any work is done
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise NeumetaError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        reporter.start("export", len(widths))
        rows = []
        for width in widths:
            rows.append(_member(choice, made, width, ending, samples, finish, measure))
            reporter.advance(1, rows[-1].file)
        reporter.finish()
        document = {"networks": [asdict(row) for row in rows]}
        write_text(made / FAMILY_INDEX, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        _put(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return rows


def _member(
    choice: Choice,
    folder: Path,
    width: float,
    ending: str,
    samples: int | None,
    finish: Finish,
    measure: Callable[[nn.Module], Mapping[str, float]] | None,
) -> MemberRow:
    manifold, sizes = choice.manifold, choice.sizes(width)
    path = folder / f"width-{width:.10g}{ending}"
    exported = export_network(manifold, path, sizes=sizes, samples=samples, finish=finish)
    cost = cost_of(manifold, sizes)
    model = accept_float32(exported.model)
    known = exported.metrics[0]["metrics"] if exported.metrics else None
    return MemberRow(
        path.name,
        width,
        sizes,
        cost.parameters,
        cost.macs,
        path.stat().st_size,
        measure_latency(model, manifold.input_size, 1),
        known if measure is None else measure(model),
    )


def _refuse_other_things(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise NeumetaError(f"cannot write {folder}: it is a file; name a folder")
    if folder.is_dir() and {path.name for path in folder.iterdir()} - _listed(folder):
        raise NeumetaError(f"cannot write {folder}: it holds other things; name a new folder")


def _listed(folder: Path) -> set[str]:
    """The files of the family in a folder, its index included; none if it holds no family.

    Anybody may have written the index: what it names and a family cannot have is no part of it.
    """
    try:
        index = read_json((folder / FAMILY_INDEX).read_text("utf-8"))
        named = {str(network["file"]) for network in index["networks"]}
    except (OSError, ValueError, LookupError, TypeError):
        return set()
    return {FAMILY_INDEX, *(path.name for path in folder.iterdir() if _may_be_member(path, named))}


def _may_be_member(path: Path, named: set[str]) -> bool:
    return path.name in named and path.suffix in SUFFIXES and path.is_file()


def _put(made: Path, folder: Path) -> None:
    """Give a folder its name, in place of an earlier family."""
    made.chmod(0o755)
    try:
        if folder.exists():
            earlier = made.with_name(made.name + ".earlier")
            folder.rename(earlier)
            try:
                made.rename(folder)
            except OSError:
                earlier.rename(folder)
                raise
            shutil.rmtree(earlier, ignore_errors=True)
        else:
            made.rename(folder)
    except OSError as error:
        raise NeumetaError(f"cannot write {folder}: {error.strerror or error}") from error
