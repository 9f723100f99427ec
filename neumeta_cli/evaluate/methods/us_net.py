"""A slimmable network for every width in a range."""

from typing import Any

from neumeta_cli.evaluate.methods.base import Bench
from neumeta_cli.evaluate.methods.slimmable import Slimmable


class UniversallySlimmable(Slimmable):
    """The widest, the narrowest and a random width in every step (US-Net, Yu and Huang, 2019)."""

    name, label = "us_net", "universally slimmable"
    trains_widths = False

    def changes(self, bench: Bench) -> dict[str, dict[str, Any]]:
        return {"fit": {"anchors": list(bench.recipe.fit.gamma)}}
