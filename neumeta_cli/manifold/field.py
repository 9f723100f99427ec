"""What every kind of INR is to the manifold."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from neumeta_cli.manifold.coordinates import Noise, Space, Target, TensorSpec
from neumeta_cli.sections import InrSection

ShapesAt = Callable[[float], Mapping[str, tuple[int, ...]]]  # of the network's weights at a γ


class Field(nn.Module):
    """From targets to tensors.

    Args:
        specs: the tensors that it generates.
        space: how coordinates are scaled.
        config: its kind and size.
        tensors: the checkpoint's weights by name.
        shapes: of the network's weights at a γ.

    """

    selects = False  # whether targets must say which channels are kept
    keeps_checkpoint = False  # whether it gives the checkpoint itself at full width

    def __init__(
        self,
        specs: Sequence[TensorSpec],
        space: Space,
        config: InrSection,
        tensors: Mapping[str, Tensor],
        shapes: ShapesAt,
    ) -> None:
        super().__init__()
        self.space, self.config = space, config
        self.begin(specs, tensors, shapes)

    def begin(
        self, specs: Sequence[TensorSpec], tensors: Mapping[str, Tensor], shapes: ShapesAt
    ) -> None:
        """Make the parameters."""
        raise NotImplementedError

    def forward(self, targets: Sequence[Target], noise: Noise | None) -> list[Tensor]:
        """Generate tensors.

        Args:
            targets: which tensors, at which sizes.
            noise: perturbation of the coordinates, none if None.

        Returns:
            A float32 tensor of ``target.shape`` for each target.

        """
        return [self.generate(target, noise) for target in targets]

    def generate(self, target: Target, noise: Noise | None) -> Tensor:
        """One tensor, where tensors are generated each on its own."""
        raise NotImplementedError
