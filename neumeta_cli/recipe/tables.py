"""What is measured once networks are there, and what is compared.

These two lie here and not with their stages, since the methods that are compared, and what
compares them, take a whole recipe: to import the sections from there would be a circle.
"""

from typing import Any

from pydantic import Field

from neumeta_cli.distill.settings import WatchSection
from neumeta_cli.settings import Section


class EvalSection(WatchSection):
    gammas: list[float] = Field(
        [0.0, 0.25, 0.5, 0.75], description="compression ratios in the table at the end"
    )
    limit: int | None = Field(
        None,
        ge=1,
        description="number of test images that this table is measured on, chosen at random; all "
        "if not given",
    )


class CompareSection(Section):
    methods: list[str] = Field(
        ["neumeta", "individual", "us_net", "integral", "l1", "l1_bn"],
        description="what neumeta compare runs; all: every method",
    )
    seeds: int = Field(
        1, ge=1, description="runs of each method, with the random seed and the next ones"
    )
    vary: dict[str, list[Any]] = Field(
        {},
        description="an ablation: recipe fields and their values; NeuMeta is run with every "
        "combination in place of the methods",
    )
    layer: str | None = Field(
        None,
        description="layer whose outputs CKA compares; if not given, the inputs of the last "
        "linear layer",
    )
    images: int = Field(1000, ge=2, description="test images for CKA and KL")
