"""Many methods under the same conditions, and what they gave."""

from neumeta_cli.compare.compare import chosen_methods, compare
from neumeta_cli.compare.results import Comparison, read_run

__all__ = ["Comparison", "chosen_methods", "compare", "read_run"]
