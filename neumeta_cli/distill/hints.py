"""Features of the checkpoint that narrower networks are to come close to."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from neumeta_cli.distill.fast.padding import Padding
from neumeta_cli.distill.reading import feature_dim, reads_channels, spread
from neumeta_cli.errors import NeumetaError
from neumeta_cli.manifold import Manifold
from neumeta_cli.trace import Clique

Features = dict[str, Tensor]  # (b, pixels …, C) by the weight that reads them


class Hints:
    """What layers read in a network beside what they read in the checkpoint.

    Hints of FitNets (Romero et al., ICLR 2015) without their regressors: the channels of a network
    that begins as a choice among the checkpoint's have their own there. Features are compared where
    the last convolution or linear layer of a clique reads them, in those cliques that several read
    (what residual connections tie), or in all if there is none; of each image at some pixels.

    Args:
        manifold: of an INR that chooses channels.

    Attributes:
        readers: the module that reads, for each weight.

    Raises:
        NeumetaError: no such layer reads channels in scope.

    """

    def __init__(self, manifold: Manifold) -> None:
        self.manifold = manifold
        cliques = manifold.frame.cliques
        reading = [weights for c in cliques if (weights := self._reading(c))]
        chosen = [weights for weights in reading if len(weights) > 1] or reading
        self.readers = {w[-1]: w[-1].rpartition(".")[0] for w in chosen}
        if not self.readers:
            raise NeumetaError(
                "loss.hint: no convolution or linear layer reads channels in scope; set it to 0"
            )

    def _reading(self, clique: Clique) -> list[str]:
        """The weights of layers that read a clique's channels, in the network's order."""
        along = {(member.weight, member.dim) for member in clique.members}
        found = []
        for spec in self.manifold.specs:
            module = self.manifold.frame.model.get_submodule(spec.name.rpartition(".")[0])
            if (spec.name, spec.layout.into) in along and reads_channels(module):
                found.append(spec.name)
        return found

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[Features]:
        """Collect what the readers of a network are given in a forward pass, at some pixels.

        Without gradients the rest is not held: a teacher's features would take as much memory as
        many of its activations, for as long as a step lasts.
        """
        seen: Features = {}

        def watch(weight: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
            dim = feature_dim(module)

            def take(_: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
                rows = spread(next(iter((*given, *named.values()))), dim)
                seen[weight] = rows if rows.requires_grad else rows.clone()

            return module.register_forward_pre_hook(take, with_kwargs=True)

        modules = dict(network.named_modules())  # a network that lacks blocks has fewer
        handles = [watch(w, modules[name]) for w, name in self.readers.items() if name in modules]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def loss(
        self, own: Features, wanted: Features, sizes: Mapping[str, int], padding: Padding
    ) -> Tensor:
        """log(1 + r), r the squared difference over the checkpoint's square; a mean over all.

        The logarithm bounds what one image can do: where depthwise layers and squeeze-excitation
        follow each other, r of a narrow network is far above 1 for some.

        Args:
            own: of a network of ``sizes``, padded.
            wanted: of the checkpoint, for the same images.
            sizes: of its cliques.
            padding: of its channels.

        Raises:
            NeumetaError: the network does not call the modules that are watched.

        """
        if not own.keys() & wanted.keys():
            raise NeumetaError(
                f"loss.hint: no forward pass calls {', '.join(self.readers.values())}; set it to 0"
            )
        within, parts = padding.places(sizes), []
        begun_as = self.manifold.inr.chosen(sizes)
        for target in self.manifold.targets(sizes):
            weight, layout = target.spec.name, target.spec.layout
            if weight not in own or weight not in wanted or target.c_in > target.spec.shape[1]:
                continue  # a network that grows has channels that the checkpoint does not
            assert layout.into is not None
            real = within.get(weight, {}).get(layout.into)
            mine = _chosen(own[weight], None if real is None else torch.from_numpy(real))
            theirs = _chosen(wanted[weight], begun_as.get((weight, layout.into)))
            parts.append((_squares(mine - theirs) / _squares(theirs).clamp(min=1e-6)).log1p())
        device = next(self.manifold.inr.parameters()).device
        return torch.stack(parts).mean() if parts else torch.zeros((), device=device)


def _chosen(rows: Tensor, places: Tensor | None) -> Tensor:
    """Some channels, which come last."""
    if places is None:
        return rows
    if int(places[-1]) == len(places) - 1:  # the first ones
        return rows[..., : len(places)]
    return rows.index_select(-1, places.to(rows.device))


def _squares(features: Tensor) -> Tensor:
    """(b, …) to (b,), the mean square of each image's."""
    kind = torch.float64 if features.dtype == torch.float64 else torch.float32
    dims = list(range(1, features.dim()))
    return (features * features).mean(dims, dtype=kind)
