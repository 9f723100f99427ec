"""All methods by their name on the command line."""

from neumeta_cli.compare.methods.base import Method
from neumeta_cli.compare.methods.pruned import PRUNING
from neumeta_cli.compare.methods.trained import TRAINED

METHODS: dict[str, Method] = {method.name: method for method in (*TRAINED, *PRUNING)}
