"""Channels of zero weight, so that kernels meet numbers of channels that they are quick at."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from neumeta_cli.cache import Cache
from neumeta_cli.distill.stateless import run_with
from neumeta_cli.manifold import Manifold
from neumeta_cli.resize import kept_places, name_in_block, place_channels
from neumeta_cli.training.outputs import close

MULTIPLES = {"cpu": 4}  # of channels: what kernels are quick with
MULTIPLE = 8  # the same for other devices: what tensor cores are built for
TRIED_WIDTH = 0.58


class Padding:
    """Networks of a fit's widths, a few channels wider but computing the same.

    The added channels are written with zero weights and read with zero weights. Networks to whom
    they are not nothing (layer norm over channels) are left as they are: one is tried.

    Args:
        manifold: whose networks they are.
        tensors: weights to try with, at full width.
        x: (b, C, H, W), images to try with.

    """

    def __init__(self, manifold: Manifold, tensors: Mapping[str, Tensor], x: Tensor) -> None:
        self.manifold = manifold
        self.full = manifold.frame.full
        self.multiple = MULTIPLES.get(x.device.type, MULTIPLE)
        self._places: Cache[dict[str, dict[int, np.ndarray]]] = Cache()
        trace = manifold.frame.trace
        self.active = not (trace.equal or trace.alike) and self._agrees(tensors, x)

    def sizes(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The next multiple for each clique, at most its full size; networks that grow stay."""
        if not self.active or any(size > self.full[name] for name, size in sizes.items()):
            return dict(sizes)
        return {
            name: min(self.full[name], -(-size // self.multiple) * self.multiple)
            for name, size in sizes.items()
        }

    def pad(self, tensors: Mapping[str, Tensor], sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """Weights of a network of ``sizes`` as those of one of ``self.sizes(sizes)``."""
        wider = self.sizes(sizes)
        if wider == dict(sizes):
            return dict(tensors)
        shapes, places = self.manifold.frame.shapes(wider), self.places(sizes)
        return {
            name: place_channels(t, places.get(own, {}), shapes.get(own, t.shape))
            for name, t in tensors.items()
            for own in [name if name in shapes else name_in_block(name)]
        }

    def places(self, sizes: Mapping[str, int]) -> dict[str, dict[int, np.ndarray]]:
        """Where along the padded network's dimensions the channels of one of ``sizes`` lie.

        By weight and dimension; those left out are whole.
        """
        wider = self.sizes(sizes)
        if wider == dict(sizes):
            return {}
        key = tuple(sizes.items())
        return self._places.get(key, lambda: self._places_within(sizes, wider))

    def _places_within(
        self, sizes: Mapping[str, int], wider: Mapping[str, int]
    ) -> dict[str, dict[int, np.ndarray]]:
        """Where along each dimension of the wider network the channels asked for lie."""
        trace = self.manifold.frame.trace
        few, more = (kept_places(trace.shapes, trace, self._first(s)) for s in (sizes, wider))
        places: dict[str, dict[int, np.ndarray]] = {}
        for (name, dim), kept in few.items():
            within = more.get((name, dim))
            found = kept if within is None else np.searchsorted(within, kept)
            places.setdefault(name, {})[dim] = found
        return places

    def _first(self, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
        """The first so many channels of each copy of the cliques that shrink."""
        cliques = [c for c in self.manifold.frame.trace.cliques if c.name in sizes]
        return {
            c.name: np.flatnonzero(np.arange(c.rows) % c.channels < sizes[c.name])
            for c in cliques
            if sizes[c.name] < c.channels
        }

    @torch.no_grad()
    def _agrees(self, tensors: Mapping[str, Tensor], x: Tensor) -> bool:
        """Whether a padded network gives the outputs of the one that was asked for."""
        self.active = True
        manifold = self.manifold
        sizes = {  # every clique that can be padded is
            name: size - (size % self.multiple == 0)
            for name, size in manifold.frame.sizes(TRIED_WIDTH).items()
        }
        trace, shapes = manifold.frame.trace, manifold.frame.trace.shapes
        narrow = {n: tensors[n] for n in (s.name for s in manifold.specs)}
        for (name, dim), places in kept_places(shapes, trace, self._first(sizes)).items():
            if name in narrow:
                index = torch.from_numpy(places).to(x.device)
                narrow[name] = narrow[name].index_select(dim, index)
        wider, outputs = self.sizes(sizes), []
        for own, weights in ((sizes, narrow), (wider, self.pad(narrow, sizes))):
            fixed = manifold.fixed_at(own, statistics=False)
            try:
                outputs.append(run_with(manifold.skeleton(own), fixed | weights, (x,)))
            except Exception:  # whatever a forward pass raises on sizes that it refuses
                return False
        return close(outputs[0], outputs[1], rtol=1e-3, atol=1e-4)
