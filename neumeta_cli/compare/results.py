"""What a comparison found, with attributes; files are validated when they are read."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_serializer, model_validator

from neumeta_cli.compare.methods import METHODS, Method, NeuMeta
from neumeta_cli.documents import read_yaml
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate import (
    CHECKPOINT,
    MANIFOLD,
    Channels,
    FitTable,
    Record,
    Row,
    RowRecord,
    Similarity,
    TotalVariation,
)
from neumeta_cli.recipe import Recipe
from neumeta_cli.runs import COMPARE_FILE, RECIPE_FILE, TABLE_FILE
from neumeta_cli.tasks import Metric

DIGITS = 6  # of γ, where it is looked up


class ModelRecord(Record):
    """Of a recipe's ``model``, what a page shows."""

    arch: str
    checkpoint: str | None = None
    weights_key: str | None = None


class FitRecord(Record):
    """Of a recipe's ``fit``, what pictures show."""

    gamma: tuple[float, float]
    mixed: float = 0.0
    mixed_gamma: tuple[float, float] = (0.0, 0.0)


class CompareRecord(Record):
    """Of a recipe's ``compare``, what similarity was asked of."""

    layer: str | None = None
    images: int = 1000


class RecipeRecord(Record):
    """A recipe as it was when it was run, which today's may refuse; it is written unchanged.

    Attributes:
        written: all of it; the other fields are read from it.

    """

    name: str
    description: str = ""
    scope: str | list[str]
    model: ModelRecord
    fit: FitRecord
    compare: CompareRecord = CompareRecord()
    seed: int = 0
    written: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _keep(cls, content: Any) -> Any:
        return {**content, "written": content} if isinstance(content, dict) else content

    @model_serializer
    def _unchanged(self) -> dict[str, Any]:
        return self.written

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        return cls.model_validate(recipe.model_dump(mode="json"))

    @classmethod
    def parse(cls, text: str) -> Any:
        """The content of a run's ``recipe.yaml``."""
        return read_yaml(text)


class LatencyRow(Record):
    """Seconds of a forward pass at a width, the same for all methods."""

    width: float
    gamma: float
    seconds_batch_1: float
    seconds_batch_64: float | None = None

    def seconds(self, batch: int) -> float | None:
        """Of a batch of 1 or of 64 images, where it was measured."""
        return self.seconds_batch_1 if batch == 1 else self.seconds_batch_64


class MethodRun(Record):
    """One run of a method, with one random seed: its ``result.json``."""

    method: str
    seed: int
    folder: str
    gammas: list[float]
    rows: list[RowRecord]
    seconds: float
    epochs: int
    stored_bytes: int
    stored_parameters: int
    similarity: Similarity


class MergedRow(Record):
    """A method at one width, over random seeds.

    Attributes:
        width, gamma: channels kept, and gone, over those of the checkpoint.
        parameters, macs, bytes: what the network costs.
        metrics: means.
        deviations: standard deviations; None with one seed.
        values: of each seed.

    """

    width: float
    gamma: float
    parameters: int
    macs: int
    bytes: int
    metrics: dict[str, float]
    deviations: dict[str, float | None] = Field(default_factory=dict)
    values: dict[str, list[float]] = Field(default_factory=dict)

    def deviation(self, metric: Metric) -> float | None:
        """Standard deviation over seeds, where there are several."""
        return self.deviations.get(metric.name)

    def shown(self, metric: Metric) -> str:
        """The metric as tables have it, with its deviation."""
        return metric.scaled(self.metrics[metric.name], self.deviation(metric))


class MethodResult(Record):
    """All runs of a method as one.

    Attributes:
        method, label: its name, on the command line and in tables.
        seeds, folders: of its runs.
        seconds: of training, the mean.
        epochs, stored_bytes, stored_parameters, similarity: of its first run.
        rows: one a width.

    """

    method: str
    label: str
    seeds: list[int]
    folders: list[str]
    seconds: float
    epochs: int
    stored_bytes: int
    stored_parameters: int | None = None
    similarity: Similarity | None = None
    rows: list[MergedRow]

    @classmethod
    def merged(cls, method: Method, runs: Sequence[MethodRun]) -> Self:
        """Means and standard deviations of a method's runs with several seeds."""
        first = runs[0]
        return cls(
            method=method.name,
            label=method.label,
            seeds=[run.seed for run in runs],
            folders=[run.folder for run in runs],
            seconds=statistics.fmean(run.seconds for run in runs),
            epochs=first.epochs,
            stored_bytes=first.stored_bytes,
            stored_parameters=first.stored_parameters,
            similarity=first.similarity,
            rows=[_merged(same) for same in zip(*(run.rows for run in runs), strict=True)],
        )

    def at(self, gamma: float) -> MergedRow | None:
        """The row at γ, if there is one."""
        return next((row for row in self.rows if abs(row.gamma - gamma) < 10**-DIGITS), None)


class Comparison(Record):
    """A comparison's ``compare.json``, or what a fit measured in the same form.

    Attributes:
        recipe: as it was run.
        hardware: that latency was measured on.
        code: digest of the code that results depend on.
        test_images: how many were measured on.
        metrics: the first is the one that the comparison goes by.
        pictures: names of those in a fit's folder.
        checkpoint: the whole network.
        methods: in the order in which they were run.
        latency: at each width.
        total_variation: of each clique before and after permuting.
        source: which weights of the checkpoint's file were taken, and what was left out.
        channels: of the networks at each γ; None in older files.

    """

    recipe: RecipeRecord
    hardware: dict[str, Any] | None = None
    code: str | None = None
    test_images: int
    metrics: list[Metric]
    pictures: list[str] | None = None
    checkpoint: RowRecord
    methods: list[MethodResult]
    latency: list[LatencyRow] | None = None
    total_variation: TotalVariation | None = None
    source: dict[str, Any] | None = None
    channels: Channels | None = None

    @classmethod
    def of_fit(cls, table: FitTable, recipe: RecipeRecord) -> Self:
        """A fit's table: the manifold and what was measured beside it."""
        names = {method.label: method.name for method in METHODS.values()}
        whole = next(row for row in table.rows if row.method == CHECKPOINT)
        others = [row for row in table.rows if row.method != CHECKPOINT]
        methods = []
        for label in dict.fromkeys(row.method for row in others):
            name = names.get(label, label)
            ours = name == NeuMeta.name
            methods.append(
                MethodResult(
                    method=name,
                    label=label,
                    seeds=[recipe.seed],
                    folders=["."] if ours else [],
                    seconds=table.fit.seconds if ours else 0.0,
                    epochs=table.fit.epochs if ours else 0,
                    stored_bytes=table.stored_bytes if ours else table.checkpoint_bytes,
                    similarity=table.similarity if ours else None,
                    rows=[
                        MergedRow.model_validate(row.as_dict())
                        for row in others
                        if row.method == label
                    ],
                )
            )
        timed = [row for row in others if row.method == MANIFOLD and 1 in row.latency]
        return cls(
            recipe=recipe,
            hardware=table.hardware,
            latency=[
                LatencyRow(
                    width=row.width,
                    gamma=round(row.gamma, DIGITS),
                    seconds_batch_1=row.latency[1],
                    seconds_batch_64=row.latency.get(64),
                )
                for row in timed
            ]
            or None,
            test_images=table.test_images,
            metrics=table.metrics,
            pictures=table.pictures,
            checkpoint=whole,
            methods=methods,
            total_variation=table.total_variation,
            channels=table.channels,
        )

    @property
    def gammas(self) -> list[float]:
        """Every γ that a method has a network for, ascending."""
        return sorted({round(row.gamma, DIGITS) for m in self.methods for row in m.rows})

    @property
    def seeds(self) -> int:
        """The most runs that a method had."""
        return max(len(method.seeds) for method in self.methods)

    @property
    def title(self) -> str:
        return f"{self.recipe.name}, scope {self.recipe.scope}"

    def latency_at(self, gamma: float) -> LatencyRow | None:
        """The latency at γ, if it was measured."""
        found = (row for row in self.latency or [] if abs(row.gamma - gamma) < 10**-DIGITS)
        return next(found, None)


def read_run(folder: Path) -> Comparison:
    """What a run's folder tells, a fit's in the form of a comparison.

    Raises:
        NeumetaError: it is not the folder of a finished run, or what it holds is damaged.

    """
    compared, fitted = folder / COMPARE_FILE, folder / TABLE_FILE
    if compared.exists():
        found = Comparison.read(compared)
    elif fitted.exists():
        recipe = RecipeRecord.read(folder / RECIPE_FILE)
        found = Comparison.of_fit(FitTable.read(fitted), recipe)
    else:
        raise NeumetaError(
            f"{folder} is no finished run: it has no {COMPARE_FILE} (neumeta compare) "
            f"and no {TABLE_FILE} (neumeta fit)"
        )
    if not found.methods:
        raise NeumetaError(f"{folder} is damaged: it tells of no methods")
    if not found.metrics:
        raise NeumetaError(
            f"{folder} has no metrics to show, as its test images have no labels; fit with "
            "--test-data, a folder of labelled ones"
        )
    return found


def _merged(same: Sequence[Row]) -> MergedRow:
    """Rows of one width with several seeds."""
    first = same[0]
    values = {name: [row.metrics[name] for row in same] for name in first.metrics}
    return MergedRow(
        width=first.width,
        gamma=round(first.gamma, DIGITS),
        parameters=first.cost.parameters,
        macs=first.cost.macs,
        bytes=first.cost.bytes,
        metrics={name: statistics.fmean(v) for name, v in values.items()},
        deviations={n: statistics.stdev(v) if len(v) > 1 else None for n, v in values.items()},
        values=values,
    )
