"""Ways to shrink a network, compared under the same conditions."""

from neumeta_cli.compare.methods.base import Bench, Method, Outcome
from neumeta_cli.compare.methods.pruned import PRUNING
from neumeta_cli.compare.methods.trained import TRAINED, NeuMeta

METHODS: dict[str, Method] = {method.name: method for method in (*TRAINED, *PRUNING)}

__all__ = ["METHODS", "PRUNING", "Bench", "Method", "NeuMeta", "Outcome"]
