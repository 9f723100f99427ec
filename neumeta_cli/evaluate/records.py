"""What was measured, as JSON files: validated when they are read, attributes from there on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from neumeta_cli.checkpoint import write_text
from neumeta_cli.documents import read_json
from neumeta_cli.errors import NeumetaError
from neumeta_cli.evaluate.measure import CHECKPOINT, LATENCY, Row
from neumeta_cli.tasks import Metric

TotalVariation = dict[str, tuple[float, float]]  # of each clique, as stored and permuted


class Record(BaseModel):
    """What a JSON file says. Fields that it does not know are passed over, None is not written."""

    model_config = ConfigDict(frozen=True)

    def as_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_none=True)

    def write(self, path: Path) -> Path:
        return write_text(path, json.dumps(self.as_dict(), indent=1, ensure_ascii=False))

    @classmethod
    def parse(cls, text: str) -> Any:
        """The content of a file."""
        return read_json(text)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that ``write`` wrote, or an earlier version of it.

        Raises:
            NeumetaError: it cannot be read, or says something else.

        """
        try:
            return cls.model_validate(cls.parse(path.read_text("utf-8")))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            reason = f"{where}: {first['msg']}" if where else first["msg"]
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
        raise NeumetaError(
            f"{path} is damaged: {reason}; remove it, and run neumeta fit or compare again"
        )


def _nested(told: Any) -> Any:
    """A row as files have it, flat, in the form of a ``Row``."""
    if not isinstance(told, Mapping):
        return told
    latency = {k.removeprefix(LATENCY): v for k, v in told.items() if k.startswith(LATENCY)}
    return {**told, "cost": told, "latency": latency}


RowRecord = Annotated[Row, BeforeValidator(_nested), PlainSerializer(Row.as_dict)]


class FitCost(Record):
    """What a fit took; ``plain_epochs`` is its time in epochs of plain training."""

    seconds: float
    epochs: int
    steps: int
    precision: str | None = None
    plain_epoch_seconds: float
    plain_epochs: float


class Similarity(Record):
    """How alike networks are, the checkpoint first, whose γ is None.

    Attributes:
        gammas: of the networks.
        cka: of each one's features with the checkpoint's.
        kl: KL(row ‖ column) of their outputs, where these are distributions.
        cka_pairs: of the features of each two; None in older files.

    """

    gammas: list[float | None]
    cka: list[float]
    kl: list[list[float]] | None = None
    cka_pairs: list[list[float]] | None = None


class ChannelsRow(Record):
    """Cliques of equally many channels.

    Attributes:
        name: of the first.
        times: how many there are.
        channels: at each γ; of sets that change places as wholes, such as attention heads, how many
            there are and how many are in each: ``3×64``.

    """

    name: str
    times: int
    channels: list[str]


class Channels(Record):
    """Of the cliques in scope, in the order of the forward pass.

    Attributes:
        gammas: the checkpoint's, 0, among them.

    """

    gammas: list[float]
    rows: list[ChannelsRow]


class FitTable(Record):
    """A fit's ``table.json``.

    Attributes:
        rows: the checkpoint, the manifold at each width, and pruning.
        fit: what the fit took.
        stored_bytes: of the manifold's file.
        checkpoint_bytes: of the checkpoint's.
        test_images: how many were measured on.
        metrics: that the rows have, the one that comparisons go by first.
        pictures: names of those in the run's folder.
        source: which weights of the checkpoint's file were taken, and what was left out.
        total_variation: of each clique before and after permuting.
        hardware: that it ran on.
        similarity: of the manifold's networks; None in older files.
        channels: of the networks at each γ; None in older files.

    """

    rows: list[RowRecord]
    fit: FitCost
    stored_bytes: int
    checkpoint_bytes: int
    test_images: int
    metrics: list[Metric]
    pictures: list[str]
    source: dict[str, Any] | None = None
    total_variation: TotalVariation
    hardware: dict[str, Any] | None = None
    similarity: Similarity | None = None
    channels: Channels | None = None

    @model_validator(mode="after")
    def _with_checkpoint(self) -> Self:
        if all(row.method != CHECKPOINT for row in self.rows):
            raise ValueError("it has no row of the checkpoint")
        return self
