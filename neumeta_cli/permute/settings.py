"""How channel orders are found."""

from pydantic import Field

from neumeta_cli.choices import Norm, Weighting
from neumeta_cli.settings import Section


class PermuteSection(Section):
    solver: str = Field("2.5-opt", description="2.5-opt, greedy, identity, random or python-tsp")
    seed: int = Field(0, description="random seed of the solver")
    time_limit: float | None = Field(None, gt=0, description="most seconds to solve one clique")
    norm: Norm = Field("l1", description="norm of the difference of two channels within a weight")
    weighting: Weighting = Field(
        "none",
        description="how much each weight counts: none (as it is, as in the paper), equal (all the "
        "same) or producer (only the weight that makes the channels)",
    )
