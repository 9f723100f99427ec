"""Ways to shrink a network, compared under the same conditions."""

from neumeta_cli.evaluate.methods.base import Bench, Method, Outcome
from neumeta_cli.evaluate.methods.distilled import Distilled
from neumeta_cli.evaluate.methods.hessian import Hessian
from neumeta_cli.evaluate.methods.individual import Individual
from neumeta_cli.evaluate.methods.integral import Integral
from neumeta_cli.evaluate.methods.l1 import L1
from neumeta_cli.evaluate.methods.l2 import L2
from neumeta_cli.evaluate.methods.neumeta import NeuMeta
from neumeta_cli.evaluate.methods.random import Random
from neumeta_cli.evaluate.methods.slimmable import Slimmable
from neumeta_cli.evaluate.methods.taylor import Taylor
from neumeta_cli.evaluate.methods.us_net import UniversallySlimmable

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        NeuMeta(),
        Individual(),
        Distilled(),
        Slimmable(),
        UniversallySlimmable(),
        Integral(),
        *(kind(bn) for kind in (L1, L2, Taylor, Hessian, Random) for bn in (False, True)),
    )
}

__all__ = ["METHODS", "Bench", "Method", "NeuMeta", "Outcome"]
