"""Which dimensions of a weight are its output and input channels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from neumeta_cli.trace import Trace

TRANSPOSED = nn.modules.conv._ConvTransposeNd
DENSE = (nn.Linear, nn.modules.conv._ConvNd)
TABLES = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class Layout:
    """How a tensor is turned so that output channels come first, then input channels.

    A transposed convolution from 5 to 7 channels, with a kernel of 3×2, keeps its input channels
    first; its layout exchanges the two::

        >>> layout = Layout(out=1, into=0, rest=(2, 3))
        >>> layout.shape((5, 7, 3, 2))
        (7, 5, 3, 2)
        >>> layout.turn_back(layout.turn(torch.zeros(5, 7, 3, 2))).shape
        torch.Size([5, 7, 3, 2])

    Attributes:
        out: the dimension of output channels.
        into: the dimension of input channels; None for a vector, and for a table that gives each
            place or token a vector.
        rest: the other dimensions: the kernel, or a table's places.

    """

    out: int
    into: int | None
    rest: tuple[int, ...] = ()

    def shape(self, actual: Sequence[int]) -> tuple[int, ...]:
        """(C_out, C_in, …) of a tensor of this shape; (C_out,) of a vector."""
        if self.into is None and not self.rest:
            return (actual[self.out],)
        size_in = 1 if self.into is None else actual[self.into]
        return (actual[self.out], size_in, *(actual[d] for d in self.rest))

    def turn(self, tensor: Tensor) -> Tensor:
        """A tensor as (C_out, C_in, …)."""
        dims = [self.out, *([] if self.into is None else [self.into]), *self.rest]
        turned = tensor.permute(dims)
        return turned.unsqueeze(1) if self.into is None and self.rest else turned

    def turn_back(self, turned: Tensor) -> Tensor:
        """The reverse of ``turn``."""
        if self.into is None and self.rest:
            turned = turned.squeeze(1)
        dims = [self.out, *([] if self.into is None else [self.into]), *self.rest]
        return turned.permute([dims.index(d) for d in range(len(dims))])

    def place(self, dim: int) -> int | None:
        """Where a dimension lies in the turned tensor, if it is one of channels: 0 or 1."""
        return {self.out: 0, self.into: 1}.get(dim)


def weight_layouts(model: nn.Module, trace: "Trace") -> dict[str, Layout]:
    """The layout of every parameter of a network.

    Known layers say it. A parameter of another module is (output, input, …) if it has two
    dimensions; with more, its dimensions along which channels run are output and input, in this
    order, so that position embeddings (1, places, channels) are tables.
    """
    along: dict[str, list[int]] = {}
    for clique in trace.cliques:
        for member in clique.members:
            known = along.setdefault(member.weight, [])
            if member.dim not in known:
                known.append(member.dim)
    return {
        name: _layout(model.get_submodule(name.rpartition(".")[0]), parameter, along.get(name, []))
        for name, parameter in model.named_parameters()
    }


def held_dims(layouts: Mapping[str, Layout], weight: str, dim: int) -> bool:
    """Whether a weight cannot change along a dimension, since it is no channel dimension of it."""
    return weight in layouts and layouts[weight].place(dim) is None


def _layout(module: nn.Module, parameter: Tensor, along: Sequence[int]) -> Layout:
    count = parameter.dim()
    if count <= 1:
        return Layout(0, None)
    if isinstance(module, TRANSPOSED):
        return Layout(1, 0, tuple(range(2, count)))
    if isinstance(module, TABLES):
        return Layout(1, None, (0,))
    if isinstance(module, DENSE) or count == 2:
        return Layout(0, 1, tuple(range(2, count)))
    channels = sorted(along) or [0, 1]
    out, into = channels[0], channels[1] if len(channels) > 1 else None
    return Layout(out, into, tuple(d for d in range(count) if d not in (out, into)))
