"""Networks that were trained after they were loaded, as files of ours."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from neumeta_cli.checkpoint import (
    MANIFOLD,
    NETWORK,
    Checkpoint,
    Cut,
    Weights,
    load_checkpoint,
    refusing,
    write_weights,
)
from neumeta_cli.data.described import own_metadata
from neumeta_cli.data.preprocessing import PREPROCESSING, as_before, own_preprocessing, resolved
from neumeta_cli.data.settings import DataSection
from neumeta_cli.errors import NeumetaError
from neumeta_cli.export.calibrating import STATISTICS, read_images
from neumeta_cli.export.loading import in_own_format, kind_of
from neumeta_cli.export.precision import DTYPES, check_dtype, convert, example, outputs_of
from neumeta_cli.export.programs import PROGRAMS
from neumeta_cli.export.write import AS_SAMPLED, Finish, check_ending
from neumeta_cli.resize import calibrate, has_statistics, measure_cost, open_frame

OF_OTHER_WEIGHTS = ("metrics", "calibrated", "permuted")  # that a file says of those it had


def save(
    network: nn.Module,
    path: str | Path,
    like: str | Path,
    arch: str | None = None,
    trust_code: bool = False,
) -> Path:
    """Write a network that ``load`` gave and that was trained since; ``load`` gives it back.

    Args:
        network: of the sizes that it was loaded with, on any device, in any mode.
        path: ``.pt`` or ``.safetensors``, which every command takes as a checkpoint, or ``.onnx``
            or ``.pt2``, with batch norms folded.
        like: the file that it was loaded from, an exported network or a checkpoint: what it says
            of itself the new file says too, but for figures of the old weights.
        arch: the architecture, for a checkpoint that does not tell.
        trust_code: import the user's module that ``like`` names, if it names one.

    Raises:
        NeumetaError: ``like`` holds a network of other names or sizes, the network's numbers have
            several formats or none of ours, or the file cannot be written.

    """
    opened = open_network(Path(like), arch, trust_code)
    _check_alike(network, opened)
    kept = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    told = {k: v for k, v in own_metadata(opened).items() if k not in OF_OTHER_WEIGHTS}
    return _write(Path(path), kept, opened, told, Finish(dtype=_format_of(kept)))


def rewrite(source: Path, path: Path, finish: Finish = AS_SAMPLED, **how: Any) -> Path:
    """Write the network of an exported file, or of a checkpoint, in another format.

    Args:
        source: the file to read.
        path: the file to write, of any ending that an export has.
        finish: what is done to it.
        how: ``arch`` and ``trust_code`` of ``load_checkpoint``.

    Raises:
        NeumetaError: one of them cannot be read or written, or a finish is not possible.

    """
    opened = open_network(source, **how)
    network, told = in_own_format(opened), own_metadata(opened)
    if finish.calibrate is not None:
        network = network.float()
        told = {k: v for k, v in told.items() if k not in OF_OTHER_WEIGHTS}
        told |= {"calibrated": _calibrate(network, opened, finish.calibrate)}
    return _write(path, network, opened, told, finish)


def open_network(path: Path, arch: str | None = None, trust_code: bool = False) -> Checkpoint:
    """Load a checkpoint or an exported network; a manifold is told apart."""
    if kind_of(path) == MANIFOLD:
        raise NeumetaError(f"{path} is a manifold, not a network; neumeta export writes one of it")
    return load_checkpoint(path, arch, trust_code=trust_code)


def _calibrate(network: nn.Module, opened: Checkpoint, folder: Path) -> dict[str, Any]:
    """Fit the statistics of a network's norms to images, in place; what was fitted to how many.

    Biases, which a manifold's networks fit where norms were folded, follow the network of full
    width, and a file of one network does not hold that.
    """
    norms = [name for name, module in network.named_modules() if has_statistics(module)]
    if not norms:
        raise NeumetaError(
            f"--calibrate: {opened.path} has no norm statistics, which folding takes away; "
            "calibrate as it is exported from its manifold"
        )
    known = opened.weights.metadata
    own = own_preprocessing(opened.arch, opened.input_size, known.get(PREPROCESSING), opened.path)
    with refusing(opened.path, NETWORK):
        data = as_before(DataSection(**known["data"])) if known.get("data") else DataSection()
    images = read_images(folder, resolved(data, own), opened.input_size)
    calibrate(network, norms, images)
    return {"images": len(images), "fitted": STATISTICS}


def _check_alike(network: nn.Module, opened: Checkpoint) -> None:
    """Refuse a network that is not that of the file."""
    own, wanted = _shapes(network.state_dict()), _shapes(opened.model.state_dict())
    for name in (*wanted, *own):
        if own.get(name) != wanted.get(name):
            sides = (own.get(name, "missing"), wanted.get(name, "missing"))
            raise NeumetaError(
                f"the network is not that of {opened.path}: {name} is {sides[0]} in it and "
                f"{sides[1]} in the file"
            )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: "×".join(map(str, t.shape)) or "a number" for name, t in tensors.items()}


def _format_of(network: nn.Module) -> str:
    """The name of the number format that all floating-point tensors of a network have."""
    found = {t.dtype for t in network.state_dict().values() if t.is_floating_point()}
    names = [name for name, dtype in DTYPES.items() if {dtype} == found]
    if not names:
        seen = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        raise NeumetaError(
            f"the network has numbers of {seen}; give all one of {', '.join(DTYPES)}, "
            "as network.float() does"
        )
    return names[0]


def _write(
    path: Path, network: nn.Module, opened: Checkpoint, told: dict[str, Any], finish: Finish
) -> Path:
    """Write a network of a checkpoint's names and sizes.

    Args:
        path: the file.
        network: on the CPU, in evaluation mode; it may be changed.
        opened: the checkpoint.
        told: what the file says of itself.
        finish: what is done to it.

    """
    check_ending(path)
    program = PROGRAMS.get(path.suffix)
    if program:
        program.check(check_dtype(finish.dtype))
    size, folded = opened.input_size, bool(told.get("fold", False))
    if folded and finish.fold is False:
        raise NeumetaError(f"the batch norms of {opened.path} are folded; leave out --no-fold")
    fold = (program is not None if finish.fold is None else finish.fold) and not folded
    if fold or finish.dtype != _format_of(network):
        wanted = outputs_of(network.float(), example(size, 2))
        if fold:
            network = open_frame(network, size, told.get("heads", "width")).fold(network)
        network = convert(network, finish.dtype, size, wanted)
    cost = measure_cost(network, size)
    told |= {"dtype": finish.dtype, "parameters": cost.parameters, "macs": cost.macs}
    if program:
        told |= {"kind": NETWORK, "fold": fold or folded}
        return program.write(path, network, size, told, finish.batch)
    if fold and told["kind"] == NETWORK:
        told |= {"fold": True}
    elif fold:
        cuts = (*opened.arch.cuts, Cut(size, {}, fold=True))
        told |= {"arch": replace(opened.arch, cuts=cuts).as_dict()}
    return write_weights(path, Weights(dict(network.state_dict()), told))
