"""One run of a model on meta tensors, watched operator by operator."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from neumeta_cli.errors import NeumetaError
from neumeta_cli.trace.labels import Atoms, Label, Labels
from neumeta_cli.trace.rules import RULES, RefusedError


@dataclass(frozen=True)
class Refusal:
    """An operator that the rules do not cover, where it ran, and why it fixes its dimensions."""

    op: str
    module: str
    reason: str


@dataclass
class Recording:
    """What one run left behind.

    Attributes:
        atoms: atoms and the ties between them.
        weights: name to labels of every parameter and buffer that ran, in order of first use.
        shapes: name to shape of the same tensors.
        graph: operators (integers) with ``op``, ``module``, ``shape``, ``weights``.
        refusals: operators without a rule that met labelled dimensions.
        output_shapes: shapes of the model's output tensors.

    """

    atoms: Atoms = field(default_factory=Atoms)
    weights: dict[str, Labels] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    graph: nx.DiGraph = field(default_factory=nx.DiGraph)
    refusals: list[Refusal] = field(default_factory=list)
    output_shapes: list[tuple[int, ...]] = field(default_factory=list)


def record(model: nn.Module, input_size: Sequence[int], batch: int = 2) -> Recording:
    """Run ``model``, whose tensors are on the meta device, and record ties and operators.

    Args:
        model: in evaluation mode; its weights are read by shape alone.
        input_size: shape of one input without the batch dimension.
        batch: size of the batch dimension.

    Raises:
        NeumetaError: the model does not run on an input of this size.

    """
    recorder = _Recorder(model)
    x = meta_input(model, input_size, batch)
    try:
        names = _module_names(model, recorder.stack)
        # Tensors that a forward makes on its own come out on the meta device too.
        with torch.no_grad(), torch.device("meta"), names, recorder:
            output = model(x)
    except NeumetaError:
        raise
    except Exception as error:
        where = recorder.stack[-1] if recorder.stack else ""
        raise NeumetaError(
            f"the network does not run on an input of {'×'.join(map(str, input_size))}"
            f"{f' (in {where})' if where else ''}: {str(error).splitlines()[0]}; "
            "give the size with --input-size C,H,W"
        ) from error
    outputs = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
    for tensor in outputs:
        for label in recorder.labels(tensor):
            recorder.result.atoms.fix(label)
    recorder.result.output_shapes = [tuple(t.shape) for t in outputs]
    return recorder.result


def meta_input(model: nn.Module, input_size: Sequence[int], batch: int = 2) -> Tensor:
    """An input on the meta device in the dtype of the model's weights."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.empty(batch, *input_size, dtype=dtype, device="meta")


class _Recorder(TorchDispatchMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.result = Recording()
        self.stack: list[str] = []
        named = (
            *model.named_parameters(),
            *model.named_buffers(),
        )  # a shared one by its first name
        stored = model.state_dict()  # what a constructor computed is no weight and stays put
        self._names = {id(t): name for name, t in named if name in stored}
        self._labels: dict[int, Labels] = {}
        self._maker: dict[int, int] = {}  # tensor to the operator that made it
        self._alive: list[Tensor] = []  # an id stays one tensor's for the whole run

    def labels(self, tensor: Tensor) -> Labels:
        known = self._labels.get(id(tensor))
        if known is None:
            known = self._first_use(tensor)
        return list(known)

    def _first_use(self, tensor: Tensor) -> Labels:
        atoms, name = self.result.atoms, self._names.get(id(tensor))
        made: Labels = [None] * tensor.dim()
        if name is not None:
            made = [atoms.fresh(n) if n > 1 else None for n in tensor.shape]
            self.result.weights[name] = made
            self.result.shapes[name] = tuple(tensor.shape)
        self._set(tensor, made)
        return made

    def _set(self, tensor: Tensor, labels: Sequence[Label]) -> None:
        self._alive.append(tensor)
        self._labels[id(tensor)] = list(labels)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if inputs and outs:
            self._apply(func, args, inputs, outs)
        self._grow_graph(func, inputs, outs)
        return out

    def _apply(
        self, func: Any, args: Sequence[Any], inputs: Sequence[Tensor], outs: Sequence[Tensor]
    ) -> None:
        atoms, name = self.result.atoms, func.overloadpacket.__name__
        before = [label for t in inputs for label in self.labels(t)]
        try:
            if name not in RULES:
                raise RefusedError("no rule for this operator")
            made = RULES[name](atoms, self.labels, args, outs)
        except RefusedError as refusal:
            if any(label is not None for label in before):
                where = self.stack[-1] if self.stack else ""
                self.result.refusals.append(Refusal(name, where, str(refusal)))
            for label in before:
                atoms.fix(label)
            made = [[None] * t.dim() for t in outs]
        for tensor, labels in zip(outs, made, strict=True):
            self._set(tensor, labels)
            for label in labels:
                atoms.seen(label)

    def _grow_graph(self, func: Any, inputs: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
        graph, node = self.result.graph, self.result.graph.number_of_nodes()
        graph.add_node(
            node,
            op=func.overloadpacket.__name__,
            module=self.stack[-1] if self.stack else "",
            shape=tuple(outs[0].shape) if outs else (),
            weights=[self._names[id(t)] for t in inputs if id(t) in self._names],
        )
        for tensor in inputs:
            if id(tensor) in self._maker:
                graph.add_edge(self._maker[id(tensor)], node)
        for tensor in outs:
            self._maker[id(tensor)] = node


@contextmanager
def _module_names(model: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keep the dotted name of the module that runs on top of ``stack``."""
    handles = []

    def leave(*_: Any) -> None:  # what a hook returns would replace the module's output
        stack.pop()

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, n=name: stack.append(n)))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
