"""What each operator does to labels: one operator, one line in the table, one small function."""

from neumeta_cli.trace.rules import norms, pointwise, products, shapes, space  # noqa: F401
from neumeta_cli.trace.rules.table import RULES, Call, RefusedError

__all__ = ["RULES", "Call", "RefusedError"]
