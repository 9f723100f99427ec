"""The INR of an integral network."""

from collections.abc import Mapping
from typing import ClassVar, Literal, cast

from torch import Tensor, nn

from neumeta_cli.manifold.inr.base import Inr, InrSettings, entry
from neumeta_cli.manifold.inr.coordinates import Noise, Target
from neumeta_cli.manifold.inr.grid import Grid, along


class IntegralSettings(InrSettings):
    """Settings of an integral network."""

    summary: ClassVar[str] = "the checkpoint's weights, interpolated along all its channels"

    kind: Literal["integral"] = "integral"


class IntegralInr(Inr):
    """The checkpoint's weights as a function that is continuous along its channels.

    An integral network (Solodskikh et al., CVPR 2023): at a size, the learnt grid is read at evenly
    spread places among all its channels, on lines between them, and the sum over input channels
    keeps its scale, ``W[o, i] = C_in,full / C_in · W_0(c_out, c_in)``. Begins as the checkpoint.
    Of four channels, a network of two has the first and the third; one of three has the first, and
    two that lie a third and two thirds of the way behind the second and third.
    """

    settings_type = IntegralSettings

    def begin(self, tensors: Mapping[str, Tensor]) -> None:
        grids = {entry(name): Grid(weight, []) for name, weight in self.turned(tensors).items()}
        self.grids = nn.ModuleDict(grids)

    def generate(self, target: Target, noise: Noise | None) -> Tensor:
        weight = cast(Grid, self.grids[entry(target.spec.name)]).whole
        weight = along(weight, 0, target.c_out, None, noise)
        if target.spec.is_vector:
            return weight
        return along(weight, 1, target.c_in, None, noise) * (target.spec.shape[1] / target.c_in)


INR = IntegralInr
