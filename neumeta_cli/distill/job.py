"""From a checkpoint and a recipe to a fitted manifold."""

import copy
from pathlib import Path

import torch
from torch import Tensor

from neumeta_cli.checkpoint import Checkpoint, file_hash
from neumeta_cli.distill.blocks import JUDGING, expendable_blocks
from neumeta_cli.distill.fit import FitResult, Fitter
from neumeta_cli.distill.settings import FitRecipe
from neumeta_cli.manifold import Manifold, Provenance, build_manifold
from neumeta_cli.permute import check_trace
from neumeta_cli.reporting import Reporter
from neumeta_cli.resize import Frame, added_blocks, has_statistics, open_frame
from neumeta_cli.seeding import seeded
from neumeta_cli.tasks import Task


def open_fit(
    checkpoint: Checkpoint,
    task: Task,
    recipe: FitRecipe,
    device: str = "cpu",
    folder: Path | None = None,
    reporter: Reporter | None = None,
    frame: Frame | None = None,
) -> tuple[Fitter, dict[str, Tensor]]:
    """A fit of ``distill_checkpoint`` that has not begun, and the weights that it is to learn.

    Raises:
        NeumetaError: whatever the user can put right, or a trace that is wrong.

    """
    if frame is None:
        frame = open_frame(checkpoint.model, checkpoint.input_size, recipe.model.heads)
        check_trace(checkpoint, frame.trace)
    inr, depths = recipe.inr, recipe.fit.depths
    if depths and depths[0] < 1 and not inr.blocks:
        inr = inr.model_copy(
            update={
                "blocks": _order_of_blocks(checkpoint, task, frame, device, recipe.seed, reporter)
            }
        )
    if depths and depths[1] > 1 and inr.chooses and not inr.added:
        counts = {run.name: run.count(depths[1]) for run in frame.runs}
        inr = inr.model_copy(update={"added": added_blocks(frame.runs, counts)})
    with seeded(recipe.seed):  # the INR's first weights
        manifold, original = build_manifold(
            checkpoint.model,
            checkpoint.arch,
            checkpoint.input_size,
            recipe.scope,
            recipe.norm.fold,
            inr,
            recipe.noise,
            frame=frame,
        )
    if added := manifold.inr.depths.added:
        manifold.longer(added)  # as long as they add nothing, which is found out by trying
    told = recipe.model_dump(mode="json")
    told["model"]["checkpoint"] = checkpoint.path.name  # where it lay is nobody's business
    manifold.provenance = Provenance(checkpoint.path.name, file_hash(checkpoint.path), told)
    return Fitter(manifold, original, task, recipe, device, folder, reporter), original


def _order_of_blocks(
    checkpoint: Checkpoint,
    task: Task,
    frame: Frame,
    device: str,
    seed: int,
    reporter: Reporter | None,
) -> list[str]:
    """All blocks that can go, the one that is missed least first, judged by training images."""
    network = copy.deepcopy(checkpoint.model).to(device).requires_grad_(False).eval()
    assert task.train is not None
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(len(task.train), generator=generator)[:JUDGING]
    images = task.inputs(task.train, index, None).to(device)
    norms = [name for name, module in network.named_modules() if has_statistics(module)]
    fewest = {run.name: run.fewest for run in frame.runs}
    return list(expendable_blocks(network, frame.runs, fewest, images, norms, reporter))


def distill_checkpoint(
    checkpoint: Checkpoint,
    task: Task,
    recipe: FitRecipe,
    device: str = "cpu",
    folder: Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
    frame: Frame | None = None,
) -> tuple[Manifold, dict[str, Tensor], FitResult]:
    """Fit a manifold to a checkpoint as it is.

    Args:
        checkpoint: usually a permuted one.
        task: data and loss.
        recipe: of the fit.
        device: where to compute.
        folder: where the state and the metrics go; nowhere if None.
        resume: go on from the state in the folder, if there is one.
        reporter: is told of the progress.
        frame: of the checkpoint's network, where it is known and channels have been shown to
            change places by it; else both is done here.

    Returns:
        The manifold, the weights that it learnt (folded), and what the fit took.

    Raises:
        NeumetaError: whatever the user can put right, or a trace that is wrong.

    """
    fitter, original = open_fit(checkpoint, task, recipe, device, folder, reporter, frame)
    result = fitter.run(resume)
    return fitter.manifold, original, result
