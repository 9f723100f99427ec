"""What each operator does to labels: one operator, one line in the table, one small function."""

from neumeta_cli.trace.rules import (  # noqa: F401
    norms,
    pointwise,
    products,
    regions,
    scattering,
    shapes,
    space,
)
from neumeta_cli.trace.rules.table import RULES, Call, RefusedError

__all__ = ["RULES", "Call", "RefusedError"]
