"""A recipe for a network that has none: chosen by what the network and the images are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from torch import nn

from neumeta_cli.checkpoint import Checkpoint
from neumeta_cli.recipe.load import over_base, override_all
from neumeta_cli.recipe.recipe import Recipe
from neumeta_cli.reporting import Reporter, counted
from neumeta_cli.resize import Frame, has_statistics

CONVOLUTIONS, GROUPED, ATTENTION = "_convolutions", "_grouped", "_attention"
NEITHER = "_whole_network"
STEPS = 2400  # six epochs of CIFAR-10 in batches of 128, after which little is gained
LEAST_EPOCHS, MOST_EPOCHS = 2, 60
DEPTHS = (0.33, 1.0)  # of the blocks of a run that are kept
SHOWN = 4  # runs that are named
SMALL, MIDDLE = 64, 128  # pixels of a side, up to which a batch has 128 and 64 images; else 32
LEAST_BATCHES = 8  # in an epoch; a batch has fewer images rather than an epoch fewer steps
CALIBRATION_BYTES = 16 << 20  # of the images that are kept to calibrate norms, before JPEG
NOT_MIXED = "it does not run with a width of its own for each clique"
OWN_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # of each image or token
CONVOLUTION = nn.modules.conv._ConvNd


@dataclass(frozen=True)
class AutoRecipe:
    """An automatic recipe.

    Attributes:
        recipe: complete.
        own: what it says over its base, as a recipe's file does.
        reasons: a line for each choice: what was chosen, and why.

    """

    recipe: Recipe
    own: Mapping[str, Any]
    reasons: tuple[str, ...]

    def as_yaml(self) -> str:
        """A recipe's file to keep and edit, with the reasons as comments."""
        told = "".join(f"# {reason}\n" for reason in self.reasons)
        return told + yaml.safe_dump(dict(self.own), sort_keys=False, allow_unicode=True)


def auto_recipe(
    checkpoint: Checkpoint,
    frame: Frame,
    images: int,
    data: Mapping[str, Any],
    labels: bool = True,
    overrides: Sequence[str] = (),
) -> AutoRecipe:
    """Choose a recipe for the whole network.

    Args:
        checkpoint: the network.
        frame: of it; scope and heads do not matter.
        images: how many there are to fit with.
        data: fields of the recipe's section.
        labels: whether the images have any.
        overrides: ``section.field=value`` in place of what would be chosen.

    Raises:
        NeumetaError: a field to override does not exist, or refuses its value.

    """
    asked: dict[str, Any] = {}
    override_all(asked, overrides)
    size = tuple(asked.get("model", {}).get("input_size") or checkpoint.input_size)
    batch = _batch_size(max(size[1:]), images)
    epochs = min(MOST_EPOCHS, max(LEAST_EPOCHS, round(STEPS / max(1, images // batch))))
    base, why = _family(frame)
    of = f"{counted(images, 'image')} of {size[1]}×{size[2]}"
    reasons = {"base": f"{base}: {why}", "fit.epochs": f"{epochs}: {of}"}
    reasons["fit.batch_size"] = f"{batch}: {of}"
    own: dict[str, Any] = {
        "name": _name(checkpoint),
        "base": base,
        "model": {
            "arch": checkpoint.arch.name,
            "checkpoint": str(checkpoint.path.absolute()),
            "kwargs": dict(checkpoint.arch.kwargs),
            "input_size": list(size),
        },
        "data": dict(data),
        "fit": {"epochs": epochs, "batch_size": batch},
    }
    if size[0] == 3:
        padding = min(size[1:]) // 8
        own["data"] |= {"flip": True, "crop_padding": padding}
        reasons["data.flip"] = "true: photographs may be mirrored; letters may not"
        reasons["data.crop_padding"] = f"{padding}: photographs are shifted by up to an eighth"
    if not _runs_mixed(frame):
        own["fit"]["mixed"] = 0.0
        reasons["fit.mixed"] = f"0: {NOT_MIXED}"
    if able := [run for run in frame.runs if run.residual and run.removable]:
        own["fit"]["depths"] = list(DEPTHS)
        named = ", ".join(f"{len(run.blocks)} of {run.name}" for run in able[:SHOWN])
        more = f" and {counted(len(able) - SHOWN, 'run')} more" if len(able) > SHOWN else ""
        reasons["fit.depths"] = (
            f"{DEPTHS[0]} to {DEPTHS[1]:g}: blocks in a row can go ({named}{more})"
        )
    if any(has_statistics(module) for module in frame.model.modules()):
        kept = _calibration_images(size, images)
        own["norm"] = {"images": kept}
        reasons["norm.images"] = (
            f"{kept}: training images that stay in the manifold's file, since batch norms are "
            "calibrated anew at every width (norm.fold=true keeps none)"
        )
    if not labels:
        own["loss"] = {"task": 0.0}
        reasons["loss.task"] = "0: the images have no labels; the outputs alone are learnt"
    override_all(own, overrides)
    folded = own.get("norm", {}).get("fold", False)
    told = {
        field: why
        for field, why in reasons.items()
        if not _said(asked, field) and not (folded and field == "norm.images")
    }
    lines = tuple(f"{field} {why}" for field, why in told.items())
    return AutoRecipe(over_base(own, "the automatic recipe"), own, lines)


def in_any_order(recipe: Recipe, frame: Frame) -> Recipe:
    """A recipe for which no fit has to find out in which order blocks and channels go."""
    told: dict[str, Any] = {"order": "norm"} if recipe.inr.chooses else {}
    if recipe.fit.depths and not recipe.inr.blocks:
        told["blocks"] = [block for run in frame.runs for block in run.removable]
    return recipe.model_copy(update={"inr": recipe.inr.model_copy(update=told)})


def suited(recipe: Recipe, frame: Frame, reporter: Reporter) -> Recipe:
    """A recipe without a default that its network does not run with, which is told."""
    asked = "mixed" in recipe.fit.model_fields_set  # then the fit refuses it
    if asked or not recipe.fit.mixed or _runs_mixed(frame):
        return recipe
    reporter.tell(f"fit.mixed 0, not the default: {NOT_MIXED}")
    return recipe.model_copy(update={"fit": recipe.fit.model_copy(update={"mixed": 0.0})})


def _said(asked: Mapping[str, Any], field: str) -> bool:
    """Whether ``section.field`` was asked for, which then needs no reason."""
    section, _, name = field.partition(".")
    return name in asked.get(section, {})


def _family(frame: Frame) -> tuple[str, str]:
    """Which base, and the reason."""
    modules = list(frame.model.modules())
    if any(isinstance(module, OWN_NORMS) for module in modules):
        return ATTENTION, "norms of each image alone, as transformers have them"
    groups = [module.groups for module in modules if isinstance(module, CONVOLUTION)]
    if 1 in groups:
        if max(groups) > 1:
            return GROUPED, "a network of convolutions, some of them in groups"
        return CONVOLUTIONS, "a network of convolutions"
    return NEITHER, "neither convolutions nor norms of each image alone"


def _name(checkpoint: Checkpoint) -> str:
    """A recipe's and its run folder's name, from the checkpoint's file."""
    stem = checkpoint.path.name.partition(".")[0]
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in stem) or "auto"


def _batch_size(pixels: int, images: int) -> int:
    most = 128 if pixels <= SMALL else 64 if pixels <= MIDDLE else 32
    while most > 16 and most * LEAST_BATCHES > images:
        most //= 2
    return max(1, min(most, images))


def _calibration_images(size: Sequence[int], images: int) -> int:
    channels, height, width = size
    fitting = CALIBRATION_BYTES // (channels * height * width)
    return max(2, min(256, max(64, fitting), images))


def _runs_mixed(frame: Frame) -> bool:
    """Whether the network runs with a width of its own for each group of cliques."""
    scoped = frame.with_scope("all")
    widths = {
        name: 1.0 if number % 2 else 0.6
        for number, group in enumerate(scoped.linked)
        for name in group
    }
    return not scoped.fault(scoped.sizes(widths))
