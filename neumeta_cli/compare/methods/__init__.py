"""Ways to shrink a network, compared under the same conditions."""

from neumeta_cli.compare.methods.base import Bench, Method, Outcome
from neumeta_cli.compare.methods.pruned import PRUNED
from neumeta_cli.compare.methods.trained import TRAINED, NeuMeta

METHODS: dict[str, Method] = {method.name: method for method in (*TRAINED, *PRUNED)}

__all__ = ["METHODS", "Bench", "Method", "NeuMeta", "Outcome"]
