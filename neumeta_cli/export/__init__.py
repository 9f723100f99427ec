"""A network on disk, and back."""

from neumeta_cli.export.budget import Budget
from neumeta_cli.export.describe import describe
from neumeta_cli.export.family import export_family
from neumeta_cli.export.loading import KIND, kind_of, load
from neumeta_cli.export.planning import Order, Planned, export_planned
from neumeta_cli.export.precision import DTYPES, accept_float32
from neumeta_cli.export.widths import Choice, Wish
from neumeta_cli.export.write import (
    AS_SAMPLED,
    SUFFIXES,
    Exported,
    Finish,
    check_ending,
    export_network,
)

__all__ = [
    "AS_SAMPLED",
    "DTYPES",
    "KIND",
    "SUFFIXES",
    "Budget",
    "Choice",
    "Exported",
    "Finish",
    "Order",
    "Planned",
    "Wish",
    "accept_float32",
    "check_ending",
    "describe",
    "export_family",
    "export_network",
    "export_planned",
    "kind_of",
    "load",
]
