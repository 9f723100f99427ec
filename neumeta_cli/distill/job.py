"""From a checkpoint and a recipe to a fitted manifold."""

from pathlib import Path

import torch
from torch import Tensor

from neumeta_cli.checkpoint import Checkpoint, file_hash
from neumeta_cli.distill.fit import FitResult, fit_manifold
from neumeta_cli.manifold import Manifold, Provenance, build_manifold
from neumeta_cli.recipe import Recipe
from neumeta_cli.reporting import Reporter
from neumeta_cli.tasks import Task


def distill_checkpoint(
    checkpoint: Checkpoint,
    task: Task,
    recipe: Recipe,
    device: str = "cpu",
    folder: Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> tuple[Manifold, dict[str, Tensor], FitResult]:
    """Fit a manifold to a checkpoint as it is.

    Returns:
        The manifold, the weights that it learnt (folded), and what the fit took.

    """
    torch.manual_seed(recipe.seed)  # of the INR's first weights
    manifold, original = build_manifold(
        checkpoint.model,
        checkpoint.arch,
        checkpoint.input_size,
        recipe.scope,
        recipe.norm.fold,
        recipe.inr,
        recipe.noise,
        recipe.model.heads,
    )
    manifold.provenance = Provenance(
        checkpoint.path.name, file_hash(checkpoint.path), recipe.model_dump(mode="json")
    )
    result = fit_manifold(manifold, original, task, recipe, device, folder, resume, reporter)
    return manifold, original, result
