"""Many methods, one checkpoint, data set, scope and list of widths: the paper's tables."""

import copy
import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neumeta_cli import pipeline
from neumeta_cli.checkpoint import Checkpoint, file_hash, write_text
from neumeta_cli.compare.methods import METHODS, Bench, Method, NeuMeta
from neumeta_cli.compare.results import (
    Comparison,
    LatencyRow,
    MethodResult,
    MethodRun,
    RecipeRecord,
)
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate import (
    BATCHES,
    CHECKPOINT,
    Observed,
    Row,
    Similarity,
    TotalVariation,
    count_channels,
    evaluate_network,
    feature_layer,
    measure_latency,
    observe,
    shown,
    similarity,
    tell,
)
from neumeta_cli.hardware import describe_machine
from neumeta_cli.permute import permute_checkpoint
from neumeta_cli.recipe import Recipe, changed, field_paths, unknown_field
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.resize import check_width, open_frame
from neumeta_cli.runs import COMPARE_FILE, PERMUTED_FILE, RECIPE_FILE, RESULT_FILE
from neumeta_cli.shipped import PACKAGE
from neumeta_cli.tasks import Task

CODE = (  # what results depend on; a change there makes comparisons run again
    *("checkpoint", "data", "distill", "manifold", "permute", "resize", "tasks"),
    *("trace", "training", "zoo"),
    *("compare/methods", "compare/compare.py", "compare/results.py", "evaluate/likeness.py"),
    *("evaluate/measure.py", "evaluate/prune.py", "evaluate/records.py"),
    *("documents.py", "kernels.py", "measuring.py", "pipeline.py"),
    *("recipe", "settings.py", "seeding.py"),
)
FIXED = ("model", "data", "train", "eval", "compare")  # sections that are the same for all methods
NO_INFLUENCE: dict[str, Any] = {  # on the result of a method: whole sections, or fields of them
    **dict.fromkeys(("name", "description", "compare", "train"), True),
    "fit": {"save_steps"},
    "eval": {"limit", "watch", "watch_gammas"},
    "model": {"checkpoint"},
    "data": {"root", "test_root", "download"},
}
WIDTHS = {
    "eval": {"limit", "watch", "watch_gammas", "gammas"}
}  # nor these, where training knows no widths


def chosen_methods(recipe: Recipe) -> list[Method]:
    """The methods that a recipe asks for, or the variations of its ablation.

    Raises:
        NeumetaError: no such method, or a field to vary that does not exist or refuses a value.

    """
    vary = recipe.compare.vary
    if vary:
        combinations = itertools.product(*vary.values())
        return [NeuMeta(_nested(recipe, dict(zip(vary, c, strict=True)))) for c in combinations]
    names = recipe.compare.methods
    if names == ["all"]:
        return list(METHODS.values())
    for name in names:
        if name not in METHODS:
            raise NeumetaError(f"no method {name!r}; there are: {', '.join(METHODS)}, or all")
    return [METHODS[name] for name in dict.fromkeys(names)]


def _nested(recipe: Recipe, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    nested: dict[str, dict[str, Any]] = {}
    known = field_paths()
    for path, value in values.items():
        section, _, field = path.partition(".")
        if not field or path not in known:
            raise NeumetaError(f"compare.vary: {unknown_field(path)}")
        if section in FIXED or path == "fit.limit":
            raise NeumetaError(f"compare.vary: {path} is the same for all that is compared")
        nested.setdefault(section, {})[field] = value
    changed(recipe, nested)  # refuses values that are wrong
    return nested


def compare_methods(
    recipe: Recipe,
    folder: Path,
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> Comparison:
    """Run every method that has not been run with this recipe and this code, and tell of all.

    Args:
        recipe: complete, as for a fit; its section ``compare`` says what is run.
        folder: of the comparison; each run of a method has a folder in it, and resumes from it.
        device: where to compute.
        reporter: is told of the progress.

    Returns:
        What is written to the folder as ``compare.json``.

    Raises:
        NeumetaError: whatever the user can put right.

    """
    reporter = reporter or Silent()
    methods = chosen_methods(recipe)
    for gamma in recipe.eval.gammas:
        check_width(1 - gamma)
    for method in methods:
        method.check()
    checkpoint, task = pipeline.open_inputs(recipe, reporter)
    labels = [m.name for m in methods if m.needs_labels]
    what = f"a comparison with {', '.join(labels)}" if labels else "a comparison"
    task.require_labels(what, training=bool(labels))
    recipe = pipeline.with_data(recipe, task.data)
    methods = [m for m in methods if m.applies(checkpoint.model)]
    if not methods:
        raise NeumetaError(
            "nothing to compare: no method is named, or none that does something to this network "
            "(… _bn calibrate norms, which it lacks)"
        )
    feature_layer(checkpoint.model, task, recipe.compare.layer)
    folder.mkdir(parents=True, exist_ok=True)
    stand = _Stand(recipe, folder, checkpoint, task, device, reporter)
    whole = stand.frame.fold(copy.deepcopy(checkpoint.model)).to(device)
    row = evaluate_network(whole, CHECKPOINT, 1.0, task)
    total_variation = stand.write_permuted()
    write_text(folder / RECIPE_FILE, recipe.as_yaml())
    seeds = range(recipe.seed, recipe.seed + recipe.compare.seeds)
    results = [
        MethodResult.merged(method, [stand.run(method, seed) for seed in seeds])
        for method in methods
    ]
    comparison = Comparison(
        recipe=RecipeRecord.of(recipe),
        hardware=describe_machine(device),
        code=code_version(),
        test_images=len(task.test),
        metrics=shown(task.metrics, [row]),
        checkpoint=row,
        methods=results,
        latency=stand.latency(),
        total_variation=total_variation,
        source=checkpoint.source(),
        channels=count_channels(stand.frame, recipe.eval.gammas),
    )
    comparison.write(folder / COMPARE_FILE)
    return comparison


def code_version() -> str:
    """A digest of the code that results depend on."""
    digest = hashlib.sha256()
    for part in CODE:
        place = PACKAGE / part
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(path.relative_to(PACKAGE).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class _Stand:
    """Runs methods one by one under the same conditions."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        checkpoint: Checkpoint,
        task: Task,
        device: str,
        reporter: Reporter,
    ) -> None:
        self.recipe, self.folder, self.checkpoint = recipe, folder, checkpoint
        self.task, self.device, self.reporter = task, device, reporter
        self.size = checkpoint.input_size
        traced = open_frame(checkpoint.model, self.size, recipe.model.heads)
        self.frame = traced.with_scope(recipe.scope)
        self._permuted: dict[str, Checkpoint] = {}
        self._full: Observed | None = None

    def run(self, method: Method, seed: int) -> MethodRun:
        """The result of a method with a seed, from its folder if it has been run."""
        recipe = changed(self.recipe, method.settings(), {"seed": seed})
        folder = self.folder / f"{method.name}-seed{seed}-{self._key(method, recipe)}"
        if (folder / RESULT_FILE).exists():
            done = MethodRun.read(folder / RESULT_FILE)
            if done.gammas == recipe.eval.gammas:
                return done
        folder.mkdir(exist_ok=True)  # what was trained there for other widths serves these too
        bench = Bench(
            self._permute(recipe),
            self.frame,
            self.task,
            recipe,
            self.device,
            self.reporter,
        )
        outcome = method.run(bench, folder)
        networks = dict(sorted(outcome.networks.items(), reverse=True))
        result = MethodRun(
            method=method.name,
            seed=seed,
            folder=folder.name,
            gammas=recipe.eval.gammas,
            rows=self._rows(method, networks),
            seconds=round(outcome.seconds, 2),
            epochs=outcome.epochs,
            stored_bytes=outcome.stored_bytes,
            stored_parameters=outcome.stored_parameters,
            similarity=self._similarity(networks),
        )
        result.write(folder / RESULT_FILE)
        return result

    def write_permuted(self) -> TotalVariation:
        """Write the permuted checkpoint; each clique's total variation before and after."""
        self._permute(self.recipe)
        path = self.folder / PERMUTED_FILE
        pipeline.write_permuted(path, self.checkpoint, self._first.weights)
        return {o.clique: (o.before, o.after) for o in self._first.orders}

    def latency(self) -> list[LatencyRow]:
        """Seconds of a forward pass at each width; shapes, and so these, are alike for all."""
        model, rows = self.checkpoint.model.cpu(), []
        for gamma in self.recipe.eval.gammas:
            sizes = self.frame.sizes(1 - gamma)
            network = self.frame.build(sizes, _any_weights(model, self.frame.shapes(sizes)))
            folded = self.frame.fold(network).to(self.device)
            one, many = (measure_latency(folded, self.size, batch) for batch in BATCHES)
            rows.append(
                LatencyRow(width=1 - gamma, gamma=gamma, seconds_batch_1=one, seconds_batch_64=many)
            )
        return rows

    def _permute(self, recipe: Recipe) -> Checkpoint:
        by = recipe.permute
        key = by.model_dump_json()
        if key not in self._permuted:
            plain = replace(self.checkpoint, model=copy.deepcopy(self.checkpoint.model).cpu())
            ordering = pipeline.ordering_of(recipe)
            made = permute_checkpoint(plain, self.frame.trace, ordering, self.reporter)
            if not self._permuted:
                self._first = made
            self._permuted[key] = replace(plain, model=made.model)
        return self._permuted[key]

    def _rows(self, method: Method, networks: Mapping[float, nn.Module]) -> list[Row]:
        """Of the networks with their norms folded, so that all cost the same."""
        rows = []
        self.reporter.start(f"evaluate {method.label}", len(networks))
        for width, network in networks.items():
            folded = self.frame.fold(network.cpu()).to(self.device)
            row = evaluate_network(folded, method.label, width, self.task)
            rows.append(row)
            self.reporter.advance(1, f"width {width:g}: {tell(row, self.task)}")
        self.reporter.finish()
        return rows

    def _similarity(self, networks: Mapping[float, nn.Module]) -> Similarity:
        """CKA with the checkpoint, and KL between all widths, the checkpoint first."""
        asked = self.recipe.compare
        if self._full is None:
            full = self.checkpoint.model.to(self.device)
            self._full = observe(full, self.task, asked.images, asked.layer)
        seen = [
            observe(n.to(self.device), self.task, asked.images, asked.layer)
            for n in networks.values()
        ]
        gammas = [None, *(round(1 - width, 6) for width in networks)]
        return similarity(gammas, [self._full, *seen], self._full)

    def _key(self, method: Method, recipe: Recipe) -> str:
        """A digest of all that a result depends on."""
        without = NO_INFLUENCE if method.trains_widths else NO_INFLUENCE | WIDTHS
        content = recipe.model_dump(mode="json", exclude=without)
        asked = recipe.compare.layer, recipe.compare.images
        files = [file_hash(self.checkpoint.path), *self.task.fingerprint()]
        parts = [content, asked, method.name, files, code_version()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _any_weights(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights of these shapes; what they are does not matter to the time that they take."""
    return {
        name: torch.rand(shapes[name]).to(t.dtype) if name in shapes else t
        for name, t in model.state_dict().items()
    }
