"""What a recipe would take, without its fit."""

from dataclasses import asdict, dataclass
from typing import Any

from neumeta_cli.distill import open_fit
from neumeta_cli.pipeline import open_inputs, with_data
from neumeta_cli.recipe import Recipe
from neumeta_cli.reporting import Reporter, Silent
from neumeta_cli.resize import Cost


@dataclass(frozen=True)
class RunOutlook:
    """What a fit would take, as a few steps tell.

    Attributes:
        precision: of its steps.
        steps: in all.
        step_seconds: of one.
        seconds: of all.
        step_bytes: that a step takes at its peak.
        bytes: with what is held before, the program itself among it.
        free_bytes: that the device can still give, None if nobody knows.
        networks: the cost at each width.

    """

    precision: str
    steps: int
    step_seconds: float
    seconds: float
    step_bytes: int
    bytes: int
    free_bytes: int | None
    networks: dict[float, Cost]

    def as_dict(self) -> dict[str, Any]:
        """As ``--json`` writes it."""
        networks = [{"width": width, **asdict(cost)} for width, cost in self.networks.items()]
        return asdict(self) | {"networks": networks}


def foresee(recipe: Recipe, device: str = "cpu", reporter: Reporter | None = None) -> RunOutlook:
    """Rehearse a recipe's fit; nothing is written.

    Args:
        recipe: complete, as ``run_recipe`` takes it.
        device: ``cpu`` or ``cuda``.
        reporter: is told of the progress.

    Raises:
        NeumetaError: whatever the user can put right; also that memory does not hold a step.

    """
    checkpoint, task = open_inputs(recipe, reporter)
    recipe = with_data(recipe, task.data)
    fitter, _ = open_fit(checkpoint, task, recipe, device, None, reporter or Silent())
    outlook, seconds = fitter.loop.prepare(), fitter.loop.seconds_of_step()
    frame = fitter.manifold.frame
    widths = dict.fromkeys([1.0, *(1 - gamma for gamma in recipe.eval.gammas)])
    return RunOutlook(
        outlook.precision,
        outlook.steps,
        round(seconds, 4),
        round(seconds * outlook.steps, 1),
        outlook.step_bytes,
        outlook.held + outlook.step_bytes,
        outlook.free,
        {round(width, 6): frame.cost(frame.sizes(width)) for width in widths},
    )
