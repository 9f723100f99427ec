"""What every kind of INR is to the manifold."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from neumeta_cli.cache import Cache
from neumeta_cli.checkpoint import MOST_ADDED
from neumeta_cli.manifold.inr.coordinates import Noise, Space, Target, TensorSpec
from neumeta_cli.manifold.inr.depths import Depths
from neumeta_cli.manifold.inr.moments import Measure, Normed
from neumeta_cli.reporting import Reporter
from neumeta_cli.settings import Section

if TYPE_CHECKING:
    from neumeta_cli.resize import Frame, Sizes

Rated = list[tuple[list[nn.Parameter], float]]
Store = Literal["float32", "float16", "int8", "compact"]
STORED = (
    "number format of the INR's parameters in the file; int8: 8 bits for matrices, with a scale "
    "for each output channel, and float16 for vectors; compact: the fewer bits the larger a "
    "matrix is, also for what is out of scope, and all of it entropy coded"
)


class InrSettings(Section):
    """Settings that every kind of INR has; each kind adds its own.

    Attributes:
        chooses: whether the channels of a narrower network begin as channels of the checkpoint.
        summary: the kind in a few words.

    """

    chooses: ClassVar[bool] = False
    summary: ClassVar[str] = ""

    kind: str
    store: Store = Field("float32", description=STORED)
    blocks: list[str] = Field(
        [],
        description="blocks that shorter networks lack, in the order in which they go; empty: a "
        "fit with fit.depths finds them",
    )
    added: dict[str, Annotated[int, Field(ge=1, le=MOST_ADDED)]] = Field(
        {},
        description="how many copies of a block, by its name, have weights of their own after it; "
        "a fit with fit.depths above 1 sets them",
    )

    @property
    def pieces(self) -> int:
        """How many like parts it makes one after another, of which a damaged file may ask many."""
        return 1


class Inr(nn.Module):
    """An implicit neural representation: from targets to tensors.

    A kind of INR is a file beside this one, with its settings (a class derived from
    ``InrSettings``) and its class (derived from this one, named ``INR`` at the end of the file),
    and a line in ``kinds.py``. It makes its parameters in ``begin`` and a tensor in ``generate``::

        class Constant(Inr):  # W = one learnt number for each tensor
            def begin(self, tensors):
                means = [tensors[spec.name].float().mean() for spec in self.specs]
                self.value = nn.Parameter(torch.stack(means))

            def generate(self, target, noise):
                return self.value[target.spec.layer].expand(target.shape)

    Args:
        settings: its kind and size.
        frame: the network, with the cliques that morph.
        specs: the tensors that it generates.
        tensors: the checkpoint's weights by name; on the meta device where a file is to follow.

    Attributes:
        space: how coordinates are scaled.
        depths: which blocks go, and what of the network follows.

    """

    settings_type: ClassVar[type[InrSettings]] = InrSettings
    oldest_format: ClassVar[int] = 1  # version of the manifold's file that its tensors are read in
    keeps_checkpoint = False  # whether it gives the checkpoint itself at full width
    rounds_below_noise = False  # whether bfloat16 changes its perturbed draws less than their noise

    def __init__(
        self,
        settings: InrSettings,
        frame: "Frame",
        specs: Sequence[TensorSpec],
        tensors: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.settings, self.frame, self.specs = settings, frame, tuple(specs)
        largest = max(max(spec.shape[:2]) for spec in specs)
        self.space = Space(len(specs), largest)
        self._targets: Cache[Sequence[Target]] = Cache()
        self.depths = Depths(frame, settings.blocks, settings.added)
        self.begin(tensors)

    def begin(self, tensors: Mapping[str, Tensor]) -> None:
        """Make the parameters."""
        raise NotImplementedError

    def start(self, measure: Measure) -> None:
        """Begin a fit closer to its end, by what layers read of training images; as it is by now.

        Args:
            measure: gives the moments of what layers read, for each of many weights.

        """

    def part(self, name: str) -> str:
        """Which part of it a parameter or buffer is, for people who ask what a file is made of.

        Those of a part are compressed together, and best alike.
        """
        return name.partition(".")[0]

    def levels(self, name: str, tensor: Tensor) -> int:
        """Steps between zero and the largest number of an output channel, in a compact file.

        Args:
            name: of a matrix in its state.
            tensor: that matrix, of which only the shape counts.

        Returns:
            1 to 127; the fewer, the fewer bytes.

        """
        return 127

    def carry(
        self, state: Mapping[str, Tensor], rounded: Callable[[str, Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Its state, where a part makes up for what rounding takes from the parts before it.

        Args:
            state: as it is.
            rounded: what becomes of a tensor of some name in a compact file.

        """
        return dict(state)

    def check(self) -> None:
        """Raise ValueError if tensors that came from a file cannot be right."""

    def rated(self) -> Rated:
        """The parameters, and the factor of the learning rate at which each group is fitted."""
        return [(list(self.parameters()), 1.0)]

    def targets(self, sizes: "Sizes", dropped: Sequence[str] = ()) -> Sequence[Target]:
        """What is to be generated at these sizes.

        Args:
            sizes: channels of each clique in scope.
            dropped: names of blocks that the network lacks.

        Returns:
            A target for each spec, but for those in these blocks.

        """
        key = (self.device, *dropped, *sizes.items())
        return self._targets.get(key, lambda: self.make_targets(sizes, dropped))

    def make_targets(self, sizes: "Sizes", dropped: Sequence[str]) -> Sequence[Target]:
        """The same, made anew."""
        shapes, short = self.turned_shapes(sizes), self.frame.without(dropped)
        left = [spec for spec in self.specs if short.has(spec.name)]
        made = []
        for place, spec in enumerate(left):
            shape = shapes[spec.name]
            c_in = 1 if spec.is_vector else shape[1]
            size_in = c_in if spec.sibling is None else shapes[spec.sibling][1]
            made.append(Target(spec, shape[0], c_in, size_in, place, len(left)))
        return made

    def chosen(self, sizes: "Sizes") -> Mapping[tuple[str, int], Tensor]:
        """Which of the checkpoint's channels those of a network of these sizes begin as.

        Returns:
            Their places for each (weight, dimension) that has fewer than the checkpoint, ascending.

        Raises:
            ValueError: this kind does not choose.

        """
        raise ValueError(f"inr.kind {self.settings.kind} does not choose channels")

    def learn(self, tensors: Mapping[str, Tensor], noise: Noise, reporter: Reporter) -> None:
        """Learn the checkpoint's weights before a fit, where it does not begin with them.

        Args:
            tensors: W0.
            noise: of the fit's coordinates.
            reporter: is told of the progress.

        """

    def refit_norms(self, norms: Iterable[tuple[str, Normed]]) -> None:
        """Let norms of each image alone follow the channels that are missing, after ``start``.

        Args:
            norms: the module of each, and what it reads.

        """

    def order(self, energies: Callable[[], Mapping[str, Tensor]]) -> None:
        """Choose channels by what they are worth on images, where its settings say so.

        Args:
            energies: measures it, (rows,) for each clique that layers read; others keep theirs.

        """

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

    def planned(self, targets: Sequence[Target]) -> Callable[[], list[Tensor]] | None:
        """A quicker way to generate just these tensors again and again without noise.

        It gives what ``forward`` gives, with gradients, as long as nothing but its parameters
        changes. None: there is no quicker way.
        """
        return None

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

    @property
    def learnt(self) -> dict[str, int]:
        """The blocks after which it has learnt anything of copies, and of how many."""
        return {}

    def addition(self, name: str, target: Target) -> Tensor | None:
        """What a tensor of a block that was added has beside what a copy begins with.

        Args:
            name: of the tensor.
            target: the same tensor of the block that it is a copy of.

        Returns:
            A tensor of the target's shape; None if there is nothing to learn.

        """
        return None

    def changes_by_depth(self) -> list[nn.Parameter]:
        """The parameters that networks with the checkpoint's blocks have nothing of."""
        return []

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    def turned(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the specs in float32, output channels first and input channels second."""
        return {s.name: s.layout.turn(tensors[s.name]).float() for s in self.specs}

    def turned_shapes(self, sizes: "Sizes") -> dict[str, tuple[int, ...]]:
        """Their shapes at these sizes."""
        shapes = self.frame.shapes(sizes)
        return {s.name: s.layout.shape(shapes[s.name]) for s in self.specs}


def entry(name: str) -> str:
    """A tensor's name as a module may be called."""
    return name.replace(".", "/")
