"""Which blocks a network can best do without."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.resize import PassOn, Run, calibrate, calibration_batches
from neumeta_cli.training.outputs import tensors_of

LEAST, JUDGING = 8, 64  # images that blocks are judged by: at least, and at most
PIXELS = 1 << 18  # of all of them


@torch.no_grad()
def expendable_blocks(
    network: nn.Module,
    runs: Sequence[Run],
    counts: Mapping[str, int],
    images: Tensor,
    norms: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> tuple[str, ...]:
    """Choose blocks to leave out, one after another: the one without which outputs change least.

    Judged by the squared distance of outputs from those with all blocks. Statistics of norms
    follow.

    Args:
        network: it loses these blocks.
        runs: of its blocks.
        counts: for each run by name, how many blocks are to be left; others stay whole.
        images: (n, C, H, W), of which the first ones judge: 64, of larger images fewer.
        norms: names of the norms whose statistics are calibrated on these images; may be none.
        reporter: is told of the progress.

    Returns:
        Names of the blocks, the one that is missed least first.

    """
    reporter, pixels = reporter or Silent(), images[0, 0].numel()
    few = images[: max(LEAST, min(JUDGING, PIXELS // pixels))]
    parts = [few[part] for part in calibration_batches(len(few), few[:1].numel())]
    if norms:
        calibrate(network, norms, parts)
    wanted = _outputs(network, parts)
    left = {run.name: len(run.blocks) - counts.get(run.name, len(run.blocks)) for run in runs}
    dropped: list[str] = []
    reporter.start("choose blocks", sum(left.values()))
    while any(left.values()):
        apart: dict[tuple[str, str], float] = {}
        for run in runs:
            for block in run.removable if left[run.name] else ():
                if block not in dropped:
                    apart[run.name, block] = _apart(network, block, norms, parts, wanted)
        name, block = min(apart, key=lambda one: apart[one])
        network.set_submodule(block, PassOn())
        norms = [norm for norm in norms if not norm.startswith(f"{block}.")]
        dropped.append(block)
        left[name] -= 1
        reporter.advance(1, f"without {block}")
    reporter.finish()
    return tuple(dropped)


def _apart(
    network: nn.Module,
    block: str,
    norms: Sequence[str],
    images: Sequence[Tensor],
    wanted: Sequence[Tensor],
) -> float:
    """How far outputs are without a block, which is put back."""
    whole = network.get_submodule(block)
    state = {n: t.clone() for n, t in network.state_dict().items()} if norms else {}
    network.set_submodule(block, PassOn())
    try:
        own = [norm for norm in norms if not norm.startswith(f"{block}.")]
        if own:
            calibrate(network, own, images)
        made = _outputs(network, images)
    finally:
        network.set_submodule(block, whole)
        if state:
            network.load_state_dict(state)
    return sum(float((m - w).square().sum()) for m, w in zip(made, wanted, strict=True))


def _outputs(network: nn.Module, images: Sequence[Tensor]) -> list[Tensor]:
    return [tensor for batch in images for tensor in tensors_of(network(batch))]
