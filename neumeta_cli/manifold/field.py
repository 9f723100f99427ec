"""What every kind of INR is to the manifold."""

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from neumeta_cli.manifold.coordinates import Noise, Space, Target, TensorSpec
from neumeta_cli.reporting import Reporter
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
    rounds_below_noise = False  # whether bfloat16 changes its perturbed draws less than their noise

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

    def rated(self, rates: Sequence[float]) -> list[tuple[list[nn.Parameter], float]]:
        """The parameters, and the factor of the learning rate at which each group is fitted.

        Args:
            rates: of the changes at the knots, where there are any; else 1 holds for all.

        """
        return [(list(self.parameters()), 1.0)]

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

    def mean(self, target: Target, noise: Noise, draws: int, reporter: Reporter) -> Tensor:
        """The mean of perturbed draws of one tensor, summed in place.

        Args:
            target: which tensor, at which size.
            noise: its draws come one after another.
            draws: K.
            reporter: is told how many weights have been drawn.

        """
        most, summed = max(1, self.at_once(target)), None
        for start in range(0, draws, most):
            few = min(most, draws - start)
            more = self.total(target, noise, few)
            summed = more if summed is None else summed.add_(more)
            reporter.advance(few * math.prod(target.shape))
        assert summed is not None
        return summed.div_(draws)

    def at_once(self, target: Target) -> int:
        """How many draws of a tensor are best made together."""
        return 1

    def total(self, target: Target, noise: Noise | None, draws: int) -> Tensor:
        """The sum of draws of one tensor, as many as ``at_once``; in memory of its own."""
        if draws != 1:
            raise ValueError("one draw at once")
        return self.generate(target, noise).clone()
