"""The frame: a traced network with a scope, that can be built at any size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from neumeta_cli.cache import Cache
from neumeta_cli.checkpoint import first_line
from neumeta_cli.errors import NeumetaError
from neumeta_cli.resize.adapt import resizable
from neumeta_cli.resize.cost import Cost, measure_cost
from neumeta_cli.resize.depth import Run, find_runs, without_blocks
from neumeta_cli.resize.fold import fold_batch_norm, foldable_pairs
from neumeta_cli.resize.layouts import Layout, weight_layouts
from neumeta_cli.resize.longer import add_blocks, added_names, added_weights
from neumeta_cli.resize.network import put_weights, resize_model, resized_shapes
from neumeta_cli.resize.scope import resolve_scope
from neumeta_cli.resize.sizes import linked_cliques, sizes_at
from neumeta_cli.trace import Clique, Inputs, Trace, meta_inputs, on_meta, trace_model

Sizes = Mapping[str, int]  # clique name to channels
Width = float | Mapping[str, float]  # of every clique, or of each by name


@dataclass(frozen=True, eq=False)
class Frame:
    """A network without its weights: how it is tied together, what of it morphs, and how large.

    A perceptron of 4 inputs, 8 hidden units and 3 classes has one clique, its hidden units, which
    are the rows of the first matrix, its biases, and the columns of the second::

        >>> frame = open_frame(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), (4,))
        >>> frame = frame.with_scope("all")
        >>> frame.sizes(0.5)
        {'0': 4}
        >>> frame.shapes({"0": 4})["2.weight"]
        (3, 4)

    Attributes:
        model: the network at full width on the meta device.
        inputs: the size of its input, (C, H, W), or example tensors.
        trace: of it, with the reasons of cliques that are held and the numbers that follow.
        layouts: which dimensions of a parameter are its output and input channels.
        heads: what of attention heads a width changes, ``width``, ``count`` or ``both``.
        scope: names of the cliques that morph; none until ``with_scope``.
        dropped: names of the blocks that its networks lack.
        added: how many copies follow a block, by its name.

    """

    model: nn.Module
    inputs: Inputs
    trace: Trace
    layouts: Mapping[str, Layout]
    heads: str = "width"
    scope: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    added: Mapping[str, int] = field(default_factory=dict)
    _shapes: Cache[dict[str, tuple[int, ...]]] = field(
        default_factory=Cache, repr=False, compare=False
    )
    _faults: Cache[str] = field(default_factory=Cache, repr=False, compare=False)
    _runs_found: Cache[tuple[Run, ...]] = field(default_factory=Cache, repr=False, compare=False)

    def __deepcopy__(self, _: object) -> "Frame":
        """Nothing in it changes, so copies of what holds one share it."""
        return self

    def with_scope(self, scope: str | Sequence[str]) -> "Frame":
        """The same network with these cliques morphing: see ``resolve_scope``.

        Raises:
            NeumetaError: no clique can change, or a pattern fits none that can.

        """
        return replace(self, scope=resolve_scope(self.trace, scope, self.layouts))

    @property
    def runs(self) -> tuple[Run, ...]:
        """Like blocks in a row, of which networks can do without some."""
        return self._runs_found.get((), lambda: find_runs(self.model, self.trace, self.inputs))

    @property
    def whole(self) -> "Frame":
        """The same network with its own blocks, all of them and no more."""
        return self.without(()).longer({}) if self.dropped or self.added else self

    def without(self, blocks: Sequence[str]) -> "Frame":
        """The same network with none but these blocks left out: see ``find_runs``."""
        return replace(self, dropped=tuple(blocks), _faults=Cache())

    def longer(self, added: Mapping[str, int]) -> "Frame":
        """The same network with copies after some blocks: see ``add_blocks``."""
        return replace(self, added=dict(added), _faults=Cache())

    def has(self, name: str) -> bool:
        """Whether a module or weight belongs to no block that is left out."""
        return not any(name == block or name.startswith(f"{block}.") for block in self.dropped)

    @property
    def cliques(self) -> list[Clique]:
        """Those in scope, in its order."""
        by_name = {clique.name: clique for clique in self.trace.cliques}
        return [by_name[name] for name in self.scope]

    @property
    def full(self) -> dict[str, int]:
        """Channels of each clique in scope at full width."""
        return self.sizes(1.0)

    @property
    def linked(self) -> list[list[str]]:
        """The names in scope in groups that a forward pass needs of one width, most of one."""
        return linked_cliques(self.trace, sorted(self.scope))

    def sizes(self, width: Width) -> dict[str, int]:
        """Channels of each clique in scope at ``width``, or at a width for each.

        Raises:
            NeumetaError: the width is no positive, finite number.

        """
        sizes = sizes_at(self.trace, self.scope, width)
        return {name: sizes[name] for name in self.scope}

    def shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        """Shapes of all weights at these sizes."""
        key = tuple(sizes.items())
        return self._shapes.get(key, lambda: resized_shapes(self.trace, sizes))

    def skeleton(self, sizes: Sizes) -> nn.Module:
        """The network at these sizes on the meta device."""
        network = without_blocks(resize_model(self.model, self.trace, sizes), self.dropped)
        return add_blocks(network, self.added)

    def check_wider(self, sizes: Sizes) -> None:
        """Refuse sizes above the checkpoint's with which the network does not run.

        ``resizable`` tries narrower networks alone; a cut at a number that is written out, such as
        ``x[:, :64]``, shows in wider ones.

        Raises:
            NeumetaError: what fails there.

        """
        full = self.full
        if all(size <= full.get(name, size) for name, size in sizes.items()):
            return
        if fault := self.fault(sizes):
            raise NeumetaError(
                f"the network does not run wider than its checkpoint: {fault} (a size written out "
                "in its forward pass, such as x[:, :64], does not grow); widths up to 1 work"
            )

    def fault(self, sizes: Sizes) -> str:
        """Why a forward pass fails at these sizes, on the meta device; empty if it runs."""

        def tried() -> str:
            small = on_meta(self.skeleton(sizes))  # with buffers that no checkpoint holds
            args, kwargs = meta_inputs(small, self.inputs)
            try:
                with torch.no_grad(), torch.device("meta"):
                    output = small(*args, **kwargs)
            except Exception as error:  # whatever a user's forward raises
                return first_line(error)
            shapes = tuple(tuple(t.shape) for t in tree_leaves(output) if isinstance(t, Tensor))
            same = shapes == self.trace.output_shapes
            return "" if same else "its outputs have other shapes there"

        return self._faults.get(tuple(sizes.items()), tried)

    def build(self, sizes: Sizes, tensors: Mapping[str, Tensor]) -> nn.Module:
        """The network at these sizes around ``tensors``, which it shares.

        Blocks that were added are given copies of them, with which they change nothing, where they
        have no weights of their own.
        """
        own = {name: tensor for name, tensor in tensors.items() if self.has(name)}
        return put_weights(self.skeleton(sizes), self.copied(own) | own)

    def copied(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What blocks that were added have of these weights: see ``added_weights``."""
        return added_weights(tensors, self.added, self.trace.operators)

    def cost(self, sizes: Sizes) -> Cost:
        """Parameters, MACs and bytes at these sizes; nothing is computed."""
        return measure_cost(self.skeleton(sizes), self.inputs)

    def fold(self, network: nn.Module) -> nn.Module:
        """Fold batch norms of a network of this frame, at any size, in place."""
        return fold_batch_norm(network, self.norm_of)

    @property
    def norm_of(self) -> dict[str, str]:
        """Each layer whose output a batch norm alone reads, and that norm."""
        pairs = [pair for pair in foldable_pairs(self.model, self.trace) if self.has(pair[0])]
        pairs += [
            pair
            for layer, norm in pairs
            for pair in zip(
                added_names(layer, self.added), added_names(norm, self.added), strict=True
            )
        ]
        return dict(pairs)

    def output(self, weight: str) -> int:
        """Along which dimension of a parameter its output channels run."""
        return self.layouts[weight].out


def open_frame(model: nn.Module, inputs: Inputs, heads: str = "width") -> Frame:
    """Trace a network and find out how it can be resized; nothing is in scope yet.

    Args:
        model: any module; it is left as it is, and its weights are not kept.
        inputs: the size of its input without the batch dimension, or example tensors.
        heads: see ``resizable``.

    Raises:
        NeumetaError: the network does not run on such inputs.

    """
    trace = resizable(model, trace_model(model, inputs), inputs, heads)
    structure = resize_model(model, trace, {})
    return Frame(structure, inputs, trace, weight_layouts(model, trace), heads)


def open_folded(model: nn.Module, inputs: Inputs, heads: str, fold: bool) -> Frame:
    """The frame of a network, with its batch norms folded in place if ``fold`` is set.

    Raises:
        NeumetaError: the network does not run on such inputs.

    """
    frame = open_frame(model, inputs, heads)
    if fold and frame.norm_of:
        frame = open_frame(frame.fold(model), inputs, heads)
    return frame
