"""Fitting the INR: the task, the reconstruction of the checkpoint, a penalty."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from neumeta_cli.distill.features import open_source
from neumeta_cli.distill.hints import Hints
from neumeta_cli.distill.inputs import Inputs, channel_energies
from neumeta_cli.distill.settings import FitRecipe
from neumeta_cli.distill.step import Step
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import Manifold, Noise
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.tasks import Task
from neumeta_cli.training import Journal, Loop, Processes


@dataclass(frozen=True)
class FitResult:
    """What a fit took.

    Attributes:
        seconds: in the steps.
        preparation_seconds: in frozen features, and in what the INR begins with.
        epochs, steps: of the whole fit, before and after it was resumed.
        skipped: steps left out since something in them was not finite.
        times_back: how often it went back to an earlier state at half the rate.
        precision: of matrix products and convolutions.

    """

    seconds: float
    preparation_seconds: float
    epochs: int
    steps: int
    skipped: int = 0
    times_back: int = 0
    precision: str = "float32"


class Fitter:
    """A fit under way: its steps, and the loop that takes them.

    Args:
        manifold: with an INR to fit; it is changed in place.
        tensors: the permuted and folded weights of the checkpoint, W0.
        task: data and loss.
        recipe: the sections noise, norm, loss, fit and eval.
        device: where to compute.
        folder: where the state and the metrics go; nowhere if None.
        reporter: is told of the progress.

    """

    def __init__(
        self,
        manifold: Manifold,
        tensors: Mapping[str, Tensor],
        task: Task,
        recipe: FitRecipe,
        device: torch.device | str = "cpu",
        folder: Path | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        if task.train is None or len(task.train) == 0:
            raise NeumetaError("there are no training images")
        if recipe.loss.distill == 0:
            task.require_labels("a fit with loss.distill: 0")
        reporter = reporter or Silent()
        processes = Processes()
        self.device = processes.open(torch.device(device))
        self.manifold = manifold.to(self.device)
        self.task, self.recipe = task, recipe
        self.tensors, self.processes, self.reporter = tensors, processes, reporter
        start = time.perf_counter()
        self.manifold.inr.order(self._energies)
        hints = Hints(manifold) if recipe.loss.hint else None
        source = open_source(
            manifold,
            tensors,
            task,
            recipe.fit.views,
            recipe.loss.distill > 0,
            hints,
            recipe.seed,
            self.device,
            reporter,
        )
        self._keep_calibration_images()
        self.preparation_seconds = time.perf_counter() - start
        self.stepper = Step(manifold, tensors, task, source, recipe, processes, hints)
        journal = Journal(folder, processes.main)
        images, advice = len(task.train), " or set fit.clip"
        self.loop = Loop(
            self.stepper, "fit", recipe.fit, images, journal, processes, reporter, advice
        )

    def _inputs(self) -> Inputs:
        """What layers of the checkpoint read of some training images."""
        count, seed = self.recipe.fit.start_images, self.recipe.seed
        images = self.manifold, self.tensors, self.task, count, seed
        return Inputs(*images, self.device, self.reporter)

    def _energies(self) -> dict[str, Tensor]:
        """What channels give to the layers that read them; the same in every process."""
        if not self.recipe.fit.start_images:
            return {}
        found = channel_energies(self._inputs(), self.tensors)
        known = {name: energy.to(self.device) for name, energy in found.items()}
        self.processes.share_first(known.values())
        return {name: energy.cpu() for name, energy in known.items()}

    def _keep_calibration_images(self) -> None:
        assert self.task.train is not None
        if self.manifold.norms:
            generator = torch.Generator().manual_seed(self.recipe.seed)
            index = torch.randperm(len(self.task.train), generator=generator)
            chosen = index[: self.recipe.norm.images]
            images = self.task.inputs(self.task.train, chosen, None)
            self.manifold.calibration.keep(images, self.recipe.norm.quality)
            self.manifold.calibration.to(self.device)

    def start(self) -> None:
        """Let the INR begin with the checkpoint's weights and with what its features tell.

        Every process looks at the same images, and takes the numbers that the first one found.
        """
        begun = time.perf_counter()
        inr, noise = self.manifold.inr, self.stepper.noise
        generator = torch.Generator(self.device).manual_seed(self.recipe.seed)
        own_noise = Noise(noise.channels, noise.sizes, generator)
        inr.learn(self.stepper.original, own_noise, self.reporter)
        if self.recipe.fit.start_images:
            inputs = self._inputs()
            inr.start(inputs)
            inr.refit_norms(inputs.norms())
        self.processes.share_first(inr.parameters())
        self.stepper.average.module.load_state_dict(inr.state_dict())
        self.preparation_seconds += time.perf_counter() - begun

    def run(self, resume: bool = False) -> FitResult:
        """Fit until the last step; the manifold then holds the averaged INR.

        Args:
            resume: go on from the state in the folder, if there is one.

        Raises:
            StoppedRunError: by Ctrl-C or a signal to end; the state is saved.
            NeumetaError: the loss stays not finite, or the state cannot be read or written.

        """
        loop = self.loop
        if resume:
            loop.resume()
        if loop.step == 0:
            self.start()
        loop.run()
        self.manifold.inr.load_state_dict(self.stepper.average.module.state_dict())
        self.manifold.round_as_stored()
        self.manifold.requires_grad_(False).eval()
        return FitResult(
            loop.seconds,
            self.preparation_seconds,
            loop.step // loop.steps_per_epoch,
            loop.step,
            loop.skipped,
            loop.times_back,
            loop.precision,
        )


def fit_manifold(
    manifold: Manifold,
    tensors: Mapping[str, Tensor],
    task: Task,
    recipe: FitRecipe,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> FitResult:
    """Fit a manifold's INR in place: a ``Fitter`` with these arguments, run to its end.

    With ``resume`` it goes on from the state in ``folder``, if there is one.
    """
    return Fitter(manifold, tensors, task, recipe, device, folder, reporter).run(resume)
