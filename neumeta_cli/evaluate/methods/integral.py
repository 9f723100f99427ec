"""A network whose weights are continuous along channels."""

from typing import Any

from neumeta_cli.evaluate.methods.base import Bench
from neumeta_cli.evaluate.methods.slimmable import Slimmable


class Integral(Slimmable):
    """Weights continuous along channels, read at evenly spread places (Solodskikh et al., 2023)."""

    name, label = "integral", "integral network"
    trains_widths = False

    def changes(self, bench: Bench) -> dict[str, dict[str, Any]]:
        return {"inr": {"kind": "integral"}}
