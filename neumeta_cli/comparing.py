"""Many methods, one checkpoint, data set, scope and list of widths: the paper's tables."""

import copy
import hashlib
import itertools
import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from neumeta_cli import pipeline
from neumeta_cli.checkpoint import Checkpoint, file_hash, write_text
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate import (
    BATCHES,
    CHECKPOINT,
    MANIFOLD,
    evaluate_network,
    measure_latency,
    shown,
    tell,
)
from neumeta_cli.evaluate.methods import METHODS, Bench, Method, NeuMeta
from neumeta_cli.evaluate.similarity import Observed, feature_layer, observe, similarity
from neumeta_cli.permute import permute_checkpoint
from neumeta_cli.recipe import Recipe, parse_recipe, unknown_field
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.resize import check_width, open_frame
from neumeta_cli.shipped import PACKAGE
from neumeta_cli.tasks import Task

COMPARE_FILE = "compare.json"
RESULT_FILE = "result.json"
CODE = (
    *("checkpoint", "distill", "manifold", "permute", "resize", "tasks", "trace", "zoo"),
    *("training", "evaluate/methods", "evaluate/similarity.py", "evaluate/sweep.py"),
    *("comparing.py", "pipeline.py", "recipe.py", "sections.py"),
)
FIXED = ("model", "data", "train", "eval", "compare")  # sections that are the same for all methods
ABOUT_RUNS = {  # fields that results do not depend on
    "fit": ("save_steps",),
    "eval": ("watch", "watch_gammas"),
    "model": ("checkpoint",),
    "data": ("root", "download"),
}


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
    content = recipe.model_dump(mode="json")
    for path, value in values.items():
        section, _, field = path.partition(".")
        if not isinstance(content.get(section), dict) or field not in content[section]:
            raise NeumetaError(f"compare.vary: {unknown_field(path)}")
        if section in FIXED or path == "fit.limit":
            raise NeumetaError(f"compare.vary: {path} is the same for all that is compared")
        nested.setdefault(section, {})[field] = content[section][field] = value
    parse_recipe(content, recipe.name)
    return nested


def compare(
    recipe: Recipe,
    folder: Path,
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Run every method that has not been run with this recipe and this code, and tell of all.

    Args:
        recipe: complete, as for a fit; its section ``compare`` says what is run.
        folder: of the comparison; each run of a method has a folder in it, and resumes from it.
        device: where to compute.
        reporter: is told of the progress.

    Returns:
        The content of ``compare.json``, which is written to the folder.

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
    document: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "hardware": _hardware(device),
        "code": code_version(),
        "test_images": len(task.test),
        "metrics": [m.as_dict() for m in shown(task.metrics, [row])],
        "checkpoint": row.as_dict(),
        "methods": [],
        "latency": [],
        "total_variation": stand.write_permuted(),
    }
    write_text(folder / pipeline.RECIPE_FILE, recipe.as_yaml())
    seeds = range(recipe.seed, recipe.seed + recipe.compare.seeds)
    for method in methods:
        runs = [stand.run(method, seed) for seed in seeds]
        document["methods"].append(_merged(method, runs))
    document["latency"] = stand.latency()
    write_text(folder / COMPARE_FILE, json.dumps(document, indent=1, ensure_ascii=False))
    return document


def read_run(folder: Path) -> dict[str, Any]:
    """What a run's folder tells, a fit's in the form of a comparison.

    Raises:
        NeumetaError: it is not the folder of a finished run, or what it holds is damaged.

    """
    compared, fitted = folder / COMPARE_FILE, folder / pipeline.TABLE_FILE
    try:
        if compared.exists():
            document: dict[str, Any] = json.loads(compared.read_text("utf-8"))
            wanted = ("methods", "recipe", "checkpoint", "metrics")
            if not all(document[name] for name in wanted):
                raise ValueError("it tells of no methods")
            return document
        if fitted.exists():
            recipe = Recipe(**yaml.safe_load((folder / pipeline.RECIPE_FILE).read_text("utf-8")))
            return _as_comparison(json.loads(fitted.read_text("utf-8")), recipe)
    except (OSError, ValueError, LookupError, TypeError, StopIteration, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NeumetaError(f"{folder} is damaged: {reason}") from error
    raise NeumetaError(
        f"{folder} is no finished run: it has no {COMPARE_FILE} (neumeta compare) "
        f"and no {pipeline.TABLE_FILE} (neumeta fit)"
    )


def _as_comparison(table: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """A fit's table: the manifold and what was measured beside it."""
    rows = [row for row in table["rows"] if row["method"] != CHECKPOINT]
    entries = []
    for label in dict.fromkeys(row["method"] for row in rows):
        ours = label == MANIFOLD
        entries.append(
            {
                "method": NeuMeta.name if ours else label,
                "label": label,
                "seeds": [recipe.seed],
                "folders": ["."] if ours else [],
                "seconds": table["fit"]["seconds"] if ours else 0.0,
                "epochs": table["fit"]["epochs"] if ours else 0,
                "stored_bytes": table["stored_bytes"] if ours else table["checkpoint_bytes"],
                "rows": [row for row in rows if row["method"] == label],
            }
        )
    return {
        "recipe": recipe.model_dump(mode="json"),
        "test_images": table["test_images"],
        "metrics": table["metrics"],
        "pictures": table["pictures"],
        "checkpoint": next(row for row in table["rows"] if row["method"] == CHECKPOINT),
        "methods": entries,
        "total_variation": table["total_variation"],
    }


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

    def run(self, method: Method, seed: int) -> dict[str, Any]:
        """The result of a method with a seed, from its folder if it has been run."""
        variation = method.settings()
        content = self.recipe.model_dump(mode="json") | {"seed": seed}
        for section, fields in variation.items():
            content[section] = {**content[section], **fields}
        recipe = parse_recipe(content, self.recipe.name)
        folder = self.folder / f"{method.name}-seed{seed}-{self._key(method, recipe)}"
        if (folder / RESULT_FILE).exists():
            done: dict[str, Any] = json.loads((folder / RESULT_FILE).read_text("utf-8"))
            if done["gammas"] == recipe.eval.gammas:
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
        result = {
            "method": method.name,
            "seed": seed,
            "folder": folder.name,
            "gammas": recipe.eval.gammas,
            "rows": self._rows(method, networks),
            "seconds": round(outcome.seconds, 2),
            "epochs": outcome.epochs,
            "stored_bytes": outcome.stored_bytes,
            "stored_parameters": outcome.stored_parameters,
            "similarity": self._similarity(networks),
        }
        write_text(folder / RESULT_FILE, json.dumps(result, indent=1, ensure_ascii=False))
        return result

    def write_permuted(self) -> dict[str, list[float]]:
        """Write the permuted checkpoint; each clique's total variation before and after."""
        self._permute(self.recipe)
        path = self.folder / pipeline.PERMUTED_FILE
        pipeline.write_permuted(path, self.checkpoint, self._first.weights)
        return {o.clique: [o.before, o.after] for o in self._first.orders}

    def latency(self) -> list[dict[str, float]]:
        """Seconds of a forward pass at each width; shapes, and so these, are alike for all."""
        model, rows = self.checkpoint.model.cpu(), []
        for gamma in self.recipe.eval.gammas:
            sizes = self.frame.sizes(1 - gamma)
            network = self.frame.build(sizes, _any_weights(model, self.frame.shapes(sizes)))
            folded = self.frame.fold(network).to(self.device)
            seconds = {b: measure_latency(folded, self.size, b) for b in BATCHES}
            named = {f"seconds_batch_{batch}": s for batch, s in seconds.items()}
            rows.append({"width": 1 - gamma, "gamma": gamma, **named})
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

    def _rows(self, method: Method, networks: Mapping[float, nn.Module]) -> list[dict[str, Any]]:
        """Of the networks with their norms folded, so that all cost the same."""
        rows: list[dict[str, Any]] = []
        self.reporter.start(f"evaluate {method.label}", len(networks))
        for width, network in networks.items():
            folded = self.frame.fold(network.cpu()).to(self.device)
            row = evaluate_network(folded, method.label, width, self.task)
            rows.append(row.as_dict())
            self.reporter.advance(1, f"width {width:g}: {tell(row, self.task)}")
        self.reporter.finish()
        return rows

    def _similarity(self, networks: Mapping[float, nn.Module]) -> dict[str, Any]:
        """CKA with the checkpoint, and KL between all widths, the checkpoint first."""
        asked = self.recipe.compare
        if self._full is None:
            full = self.checkpoint.model.to(self.device)
            self._full = observe(full, self.task, asked.images, asked.layer)
        seen = [
            observe(n.to(self.device), self.task, asked.images, asked.layer)
            for n in networks.values()
        ]
        found = similarity([self._full, *seen], self._full)
        return {"gammas": [None, *(round(1 - w, 6) for w in networks)], **found}

    def _key(self, method: Method, recipe: Recipe) -> str:
        """A digest of all that a result depends on."""
        content = recipe.model_dump(mode="json")
        asked = {n: content["compare"][n] for n in ("layer", "images")}
        for unimportant in ("name", "description", "compare", "train"):
            del content[unimportant]
        for section, fields in ABOUT_RUNS.items():
            content[section] = {k: v for k, v in content[section].items() if k not in fields}
        if not method.trains_widths:
            del content["eval"]["gammas"]
        files = [file_hash(self.checkpoint.path), *self.task.fingerprint()]
        parts = [content, asked, method.name, files, code_version()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _any_weights(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights of these shapes; what they are does not matter to the time that they take."""
    return {
        name: torch.rand(shapes[name]).to(t.dtype) if name in shapes else t
        for name, t in model.state_dict().items()
    }


def _merged(method: Method, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A method's runs with several seeds as one entry: means and standard deviations."""
    rows = []
    for same in zip(*(run["rows"] for run in runs), strict=True):
        row = {k: v for k, v in same[0].items() if k not in ("method", "metrics")}
        values = {name: [other["metrics"][name] for other in same] for name in same[0]["metrics"]}
        spread = {n: statistics.stdev(v) if len(v) > 1 else None for n, v in values.items()}
        means = {name: statistics.fmean(v) for name, v in values.items()}
        rows.append({**row, "metrics": means, "deviations": spread, "values": values})
    shared = {k: runs[0][k] for k in ("epochs", "stored_bytes", "stored_parameters", "similarity")}
    return {
        "method": method.name,
        "label": method.label,
        "seeds": [run["seed"] for run in runs],
        "folders": [run["folder"] for run in runs],
        "seconds": statistics.fmean(run["seconds"] for run in runs),
        **shared,
        "rows": rows,
    }


def _hardware(device: str) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "device": gpu or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
