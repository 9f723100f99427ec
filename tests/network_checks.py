"""One random network from its trace to files that others run, with every value compared."""

import random
from dataclasses import replace
from pathlib import Path

import torch
from model_checks import permutation_error, randomise
from noise_images import noise_task
from random_networks import CLASSES, input_size
from tally import Wrong
from torch import Tensor, nn

from neumeta_cli.checkpoint import Arch, Checkpoint, load_checkpoint
from neumeta_cli.distill import distill_checkpoint
from neumeta_cli.export import describe, export_network, load
from neumeta_cli.export.programs import PROGRAMS
from neumeta_cli.manifold import Manifold, load_manifold, save_manifold
from neumeta_cli.permute import permute_checkpoint
from neumeta_cli.pipeline import ordering_of
from neumeta_cli.recipe.auto import auto_recipe
from neumeta_cli.resize import open_frame

STEPS, BATCH = 3, 8
EXACT = 1e-9  # of outputs in float64
CLOSE = 1e-4  # of outputs in float32 that other kernels compute
PLACE = "random_networks:network"


def saved(seed: int, folder: Path) -> tuple[Path, Arch]:
    """A state dict of the network of a seed, with random statistics, and how to build it."""
    arch = Arch(PLACE, {"seed": seed})
    torch.manual_seed(seed)
    path = folder / "net.pth"
    torch.save(randomise(arch.build("cpu"), seed).state_dict(), path)
    return path, arch


def check_network(seed: int, folder: Path, programs: tuple[str, ...] = (".onnx",)) -> None:
    """Trace, permute, fit three steps, save, sample, export and run a network.

    Args:
        seed: of the network and of what is done with it.
        folder: an empty one.
        programs: endings of files that run without neumeta, which are written too.

    Raises:
        Wrong: some values are not what they should be.

    """
    rng = random.Random(f"use {seed}")
    path, arch = saved(seed, folder)
    checkpoint = load_checkpoint(path, arch, input_size(seed))
    frame = open_frame(checkpoint.model, checkpoint.input_size)
    error, _ = permutation_error(checkpoint.model, frame.trace, checkpoint.input_size)
    expect(error < EXACT, f"channels in another order compute otherwise, by {error:.1e}")
    said = [
        *(f"fit.batch_size={BATCH}", "fit.epochs=1", "fit.precision=float32", "norm.images=8"),
        *("fit.anchor_shares=[]", f"norm.fold={str(rng.random() < 0.3).lower()}"),
        f"inr.store={rng.choice(['float32', 'int8'])}",
        *([] if rng.random() < 0.8 else ["inr.kind=factorised", "loss.hint=0"]),
        f"permute.solver={rng.choice(['identity', '2.5-opt'])}",
    ]
    size, count = checkpoint.input_size, STEPS * BATCH
    data = {"mean": [0.5] * size[0], "std": [0.25] * size[0]}
    recipe = auto_recipe(checkpoint, frame, count, data, overrides=said).recipe
    frame = open_frame(checkpoint.model, size, recipe.model.heads)
    permuted = permute_checkpoint(checkpoint, frame.trace, ordering_of(recipe)).model
    task = noise_task(recipe.data, size, CLASSES, count)
    manifold, _, result = distill_checkpoint(
        replace(checkpoint, model=permuted), task, recipe, frame=frame
    )
    expect(result.steps == STEPS and not result.skipped, f"{result.skipped} steps are not finite")
    file = save_manifold(folder / "manifold.safetensors", manifold)
    loaded = load_manifold(file, trust_code=True)
    width = rng.choice([0.25, 0.37, 0.5, 0.6, 0.75, 1.0])
    twin = manifold.sample(width)
    same(loaded.sample(width), twin, size, "the manifold's file gives another network")
    if manifold.inr.keeps_checkpoint and recipe.inr.store == "float32":
        whole = manifold.sample(1.0, samples=0)
        near(whole, checkpoint.model, size, "full width is not the checkpoint")
    check_exports(checkpoint, loaded, twin, width, folder, programs)


def check_exports(
    checkpoint: Checkpoint,
    manifold: Manifold,
    twin: nn.Module,
    width: float,
    folder: Path,
    programs: tuple[str, ...],
) -> None:
    """Files of weights give the network in memory bit for bit, and others its outputs closely."""
    size = checkpoint.input_size
    for ending in (".pt", ".safetensors"):
        path = export_network(manifold, folder / f"half{ending}", width).path
        again = load(path, trust_code=True)
        same(again, twin, size, f"{ending} gives another network")
        counted = sum(p.numel() for p in again.parameters())
        told = describe(path)["parameters"]
        expect(told == counted, f"{ending} tells of {told} parameters, and has {counted}")
    for ending in programs:
        try:
            path = export_network(manifold, folder / f"half{ending}", width).path
        finally:
            (folder / f"half{ending}.data").unlink(missing_ok=True)
        run = PROGRAMS[ending].open(path)
        for batch in (1, 5):
            x = images(size, batch)
            off = apart(run(x)[0], outputs(twin, x))
            expect(off < CLOSE, f"{ending} computes otherwise, by {off:.1e}")


def images(size: tuple[int, ...], batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return 2 * torch.randn(batch, *size, generator=generator)


@torch.no_grad()
def outputs(network: nn.Module, x: Tensor) -> Tensor:
    made: Tensor = network.eval()(x)
    return made


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference over the largest output; infinite where something is not finite."""
    if one.shape != other.shape or not bool(other.isfinite().all()):
        return float("inf")
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-6))


def same(one: nn.Module, other: nn.Module, size: tuple[int, ...], otherwise: str) -> None:
    x = images(size, 3)
    expect(torch.equal(outputs(one, x), outputs(other, x)), otherwise)


def near(one: nn.Module, other: nn.Module, size: tuple[int, ...], otherwise: str) -> None:
    x = images(size, 3)
    off = apart(outputs(one, x), outputs(other, x))
    expect(off < CLOSE, f"{otherwise}, by {off:.1e}")


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)
