"""Ways to shrink a network, compared under the same conditions."""

from neumeta_cli.evaluate.methods.base import Bench, Method, Outcome
from neumeta_cli.evaluate.methods.individual import Distilled, Individual
from neumeta_cli.evaluate.methods.neumeta import NeuMeta
from neumeta_cli.evaluate.methods.pruning import CRITERIA, Pruning
from neumeta_cli.evaluate.methods.slimmable import Integral, Slimmable, UniversallySlimmable

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        NeuMeta(),
        Individual(),
        Distilled(),
        Slimmable(),
        UniversallySlimmable(),
        Integral(),
        *(Pruning(criterion, bn) for criterion in CRITERIA for bn in (False, True)),
    )
}

__all__ = ["METHODS", "Bench", "Method", "NeuMeta", "Outcome"]
