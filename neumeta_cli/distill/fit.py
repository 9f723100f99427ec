"""Fitting the INR: the task, the reconstruction of the checkpoint, a penalty."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from neumeta_cli.checkpoint import write_atomically
from neumeta_cli.distill.features import open_source
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import Manifold, Noise
from neumeta_cli.recipe import Recipe
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.tasks import Classification

STATE_FILE = "state.pt"
METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class FitResult:
    """What a fit took: seconds in the steps, seconds in frozen features, epochs and steps."""

    seconds: float
    preparation_seconds: float
    epochs: int
    steps: int


class Fitter:
    """A fit under way. ``run`` goes through all epochs; between two of them it can be stopped.

    Args:
        manifold: with an INR to fit; it is changed in place.
        tensors: the permuted and folded weights of the checkpoint, W0.
        task: data and loss.
        recipe: the sections noise, loss and fit.
        device: where to compute.
        folder: where the state and the metrics go after every epoch; nowhere if None.
        reporter: is told of the progress.

    """

    def __init__(
        self,
        manifold: Manifold,
        tensors: Mapping[str, Tensor],
        task: Classification,
        recipe: Recipe,
        device: torch.device | str = "cpu",
        folder: Path | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        if task.train is None or len(task.train) == 0:
            raise NeumetaError("there are no training images")
        self.device = torch.device(device)
        self.manifold = manifold.to(self.device)
        self.original = {s.name: tensors[s.name].to(self.device) for s in manifold.specs}
        self.norms = {name: w.square().sum() for name, w in self.original.items()}
        self.task, self.recipe, self.folder = task, recipe, folder
        self.reporter = reporter or Silent()
        field = manifold.field.requires_grad_(True).train()
        self.optimizer = torch.optim.Adam(field.parameters(), lr=recipe.fit.learning_rate)
        self.average = AveragedModel(field, multi_avg_fn=get_ema_multi_avg_fn(recipe.fit.ema))
        self.choices = torch.Generator().manual_seed(recipe.seed)
        noise = torch.Generator(self.device).manual_seed(recipe.seed)
        self.noise = Noise(recipe.noise.channels, recipe.noise.sizes, noise)
        self.full = manifold.sizes(1.0)
        self.epoch = self.step = 0
        self.seconds = 0.0
        start = time.perf_counter()
        self.source = open_source(
            manifold,
            tensors,
            task,
            recipe.fit.views,
            recipe.loss.distill > 0,
            recipe.seed,
            self.device,
            self.reporter,
        )
        self._keep_calibration_images()
        self.preparation_seconds = time.perf_counter() - start

    def _keep_calibration_images(self) -> None:
        assert self.task.train is not None
        if self.manifold.norms:
            generator = torch.Generator().manual_seed(self.recipe.seed)
            index = torch.randperm(len(self.task.train), generator=generator)
            chosen = index[: self.recipe.norm.images]
            self.manifold.calibration.keep(self.task.inputs(self.task.train, chosen, None))
            self.manifold.calibration.to(self.device)

    @property
    def steps_per_epoch(self) -> int:
        assert self.task.train is not None
        return max(1, len(self.task.train) // self.recipe.fit.batch_size)

    def run(self) -> FitResult:
        """Fit until the last epoch; the manifold then holds the averaged INR."""
        fit = self.recipe.fit
        self.reporter.start("fit", (fit.epochs - self.epoch) * self.steps_per_epoch)
        while self.epoch < fit.epochs:
            start = time.perf_counter()
            record = self._run_epoch()
            self.seconds += time.perf_counter() - start
            self.epoch += 1
            self._save(record)
        self.reporter.finish()
        self.manifold.field.load_state_dict(self.average.module.state_dict())
        self.manifold.requires_grad_(False).eval()
        return FitResult(self.seconds, self.preparation_seconds, self.epoch, self.step)

    def _run_epoch(self) -> dict[str, float]:
        assert self.task.train is not None
        order = torch.randperm(len(self.task.train), generator=self.choices)
        sums: dict[str, float] = {}
        batches = order.split(self.recipe.fit.batch_size)[: self.steps_per_epoch]
        for index in batches:
            for name, value in self.train_step(index).items():
                sums[name] = sums.get(name, 0.0) + value
            self.reporter.advance(1, f"loss {sums['loss'] / sums['steps']:.3f}")
        return {name: value / sums["steps"] for name, value in sums.items() if name != "steps"}

    def train_step(self, index: Tensor) -> dict[str, float]:
        """One step on the training images ``index``; gives the parts of its loss.

        Raises:
            NeumetaError: the loss is not finite.

        """
        fit = self.recipe.fit
        for group in self.optimizer.param_groups:
            total = fit.epochs * self.steps_per_epoch
            group["lr"] = fit.learning_rate * 0.5 * (1 + math.cos(math.pi * self.step / total))
        warm = self.step < fit.warmup_steps
        sizes = self.full if warm else self._draw_sizes()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fit.precision == "bfloat16"):
            generated = self.manifold.generate(sizes, self.noise, self._draw_trained(warm))
            parts = {} if warm else self._task_loss(sizes, generated, index)
        parts |= self._weight_loss(sizes, generated)
        loss = torch.stack(list(parts.values())).sum()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NeumetaError(
                f"the loss is {value} at step {self.step}; lower fit.learning_rate "
                f"(now {fit.learning_rate:g}) or set fit.clip"
            )
        self.optimizer.zero_grad()
        loss.backward()
        if fit.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.manifold.field.parameters(), fit.clip)
        self.optimizer.step()
        self.average.update_parameters(self.manifold.field)
        self.step += 1
        return {"loss": value, "steps": 1.0} | {n: float(p.detach()) for n, p in parts.items()}

    def _task_loss(
        self, sizes: dict[str, int], generated: dict[str, Tensor], index: Tensor
    ) -> dict[str, Tensor]:
        weights, task = self.recipe.loss, self.task
        batch = self.source.batch(index, self.choices)
        norms = self.manifold.norms
        fixed = self.manifold.fixed_at(sizes)
        tensors = {n: t for n, t in fixed.items() if n.rpartition(".")[0] not in norms} | generated
        scores = self.source.run(self.manifold.skeleton(sizes), tensors, batch).float()
        parts = {"task": weights.task * task.loss(scores, batch.labels)}
        if weights.distill and batch.teacher is not None:
            divergence = task.divergence(scores, batch.teacher, weights.temperature)
            parts["distill"] = weights.distill * divergence
        return parts

    def _weight_loss(
        self, sizes: dict[str, int], generated: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """λ1 ‖W0‖²·‖W − W0‖² at full width, and λ2 ‖W‖², over the tensors that this step trains."""
        loss = self.recipe.loss
        trained = {name: w for name, w in generated.items() if w.requires_grad}
        parts = {}
        if sizes == self.full:
            parts["recon"] = (
                loss.recon
                * torch.stack(
                    [
                        self.norms[n] * (w - self.original[n]).square().sum()
                        for n, w in trained.items()
                    ]
                ).sum()
            )
        parts["reg"] = loss.reg * torch.stack([w.square().sum() for w in trained.values()]).sum()
        return parts

    def _draw_sizes(self) -> dict[str, int]:
        """Every clique at one width: 1 in a share of the steps, else 1 - γ with γ drawn."""
        fit = self.recipe.fit
        low, high = fit.gamma
        full, place = torch.rand(2, generator=self.choices).tolist()
        if full < fit.full_width:
            return self.full
        return self.manifold.sizes(1 - (low + (high - low) * place**fit.gamma_power))

    def _draw_trained(self, warm: bool) -> set[str] | None:
        share = self.recipe.fit.update
        if warm or share == 1:
            return None
        names = [spec.name for spec in self.manifold.specs]
        count = max(1, round(share * len(names)))
        chosen = torch.randperm(len(names), generator=self.choices)[:count]
        return {names[i] for i in chosen.tolist()}

    def _save(self, record: Mapping[str, float]) -> None:
        if self.folder is None:
            return
        line = {"epoch": self.epoch, "step": self.step, "seconds": round(self.seconds, 2), **record}
        with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        state = self.state_dict()
        write_atomically(self.folder / STATE_FILE, lambda path: torch.save(state, path))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the fit depends on."""
        return {
            "field": self.manifold.field.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "choices": self.choices.get_state(),
            "noise": self.noise.generator.get_state(),
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
        }

    def load_state(self, path: Path) -> None:
        """Go on where ``state_dict`` was taken.

        Raises:
            NeumetaError: the file is damaged or belongs to another recipe.

        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.manifold.field.load_state_dict(state["field"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.choices.set_state(state["choices"].cpu())
            self.noise.generator.set_state(state["noise"].cpu())
            self.epoch, self.step = state["epoch"], state["step"]
            self.seconds = state["seconds"]
        except Exception as error:  # torch raises many kinds on damaged files
            raise NeumetaError(
                f"cannot go on from {path}: damaged, or of another recipe; start a new run"
            ) from error


def fit_manifold(
    manifold: Manifold,
    tensors: Mapping[str, Tensor],
    task: Classification,
    recipe: Recipe,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> FitResult:
    """Fit a manifold's INR in place: a ``Fitter`` with these arguments, run to its end.

    With ``resume`` it goes on from the state in ``folder``, if there is one.
    """
    fitter = Fitter(manifold, tensors, task, recipe, device, folder, reporter)
    if resume and folder is not None and (folder / STATE_FILE).exists():
        fitter.load_state(folder / STATE_FILE)
    return fitter.run()
