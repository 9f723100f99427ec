"""Many methods under the same conditions, and what they gave."""

from neumeta_cli.compare.compare import chosen_methods, compare, read_run

__all__ = ["chosen_methods", "compare", "read_run"]
