"""One run of a model on meta tensors, watched operator by operator."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from neumeta_cli.errors import NeumetaError
from neumeta_cli.trace.dispatch import DispatchMode
from neumeta_cli.trace.fast_shapes import run as run_fast
from neumeta_cli.trace.inputs import Inputs, describe, meta_inputs
from neumeta_cli.trace.labels import Atoms, Labels
from neumeta_cli.trace.rules import RULES, Call, RefusedError
from neumeta_cli.trace.substitutes import Substitutes


@dataclass(frozen=True)
class Operator:
    """One operator that ran.

    Attributes:
        op: its name in ATen.
        module: where it ran.
        shape: of its first result.
        weights: that it read.
        after: places, in the order of the run, of the operators whose results it read.

    """

    op: str
    module: str
    shape: tuple[int, ...]
    weights: tuple[str, ...]
    after: tuple[int, ...]


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
        weights: name to the atoms along each dimension (None for size one) of every parameter and
            buffer that ran, in order of first use.
        constants: the same for buffers that the state dict lacks, where all slices are equal.
        shapes, constant_shapes: name to shape of the tensors in both.
        operators: in the order in which they ran.
        refusals: operators without a rule that met labelled dimensions.
        output_shapes: shapes of the model's output tensors.

    """

    atoms: Atoms = field(default_factory=Atoms)
    weights: dict[str, list[np.ndarray | None]] = field(default_factory=dict)
    constants: dict[str, list[np.ndarray | None]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    constant_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    output_shapes: list[tuple[int, ...]] = field(default_factory=list)


def record(
    model: nn.Module, inputs: Inputs, uniform: Mapping[str, Sequence[int]] | None = None
) -> Recording:
    """Run ``model``, whose tensors are on the meta device, and record ties and operators.

    Args:
        model: in evaluation mode; its weights are read by shape alone.
        inputs: what it takes.
        uniform: names of buffers that the state dict lacks, and along which of their dimensions
            all slices are equal.

    Raises:
        NeumetaError: the model does not run on such inputs.

    """
    recorder = _Recorder(model, uniform or {})
    args, kwargs = meta_inputs(model, inputs)
    try:
        names = module_names(model, recorder.stack)
        # Tensors that a forward makes on its own come out on the meta device too.
        with torch.no_grad(), torch.device("meta"), Substitutes(), names, recorder:
            output = model(*args, **kwargs)
    except NeumetaError:
        raise
    except Exception as error:
        where = recorder.stack[-1] if recorder.stack else ""
        raise NeumetaError(
            f"the network does not run on an input of {describe(inputs)}"
            f"{f' (in {where})' if where else ''}: {(str(error) or repr(error)).splitlines()[0]}; "
            "give the size with --input-size C,H,W (model.input_size in a recipe)"
        ) from error
    outputs = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
    for tensor in outputs:
        recorder.result.atoms.fix_all(recorder.labels(tensor))
    recorder.result.output_shapes = [tuple(t.shape) for t in outputs]
    return recorder.result


class _Recorder(DispatchMode):
    def __init__(self, model: nn.Module, uniform: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.result = Recording()
        self.stack: list[str] = []
        named = (
            *model.named_parameters(),
            *model.named_buffers(),
        )  # a shared one by its first name
        stored = model.state_dict()  # what a constructor computed is no weight and stays put
        self._names = {id(t): name for name, t in named if name in stored}
        self._constants = {
            id(t): (name, uniform[name]) for name, t in named if uniform.get(name) is not None
        }
        self._labels: dict[int, Labels] = {}
        self._maker: dict[int, int] = {}  # tensor to the operator that made it
        self._alive: list[Tensor] = []  # an id stays one tensor's for the whole run

    def labels(self, tensor: Tensor) -> Labels:
        known = self._labels.get(id(tensor))
        return self._first_use(tensor) if known is None else known

    def _first_use(self, tensor: Tensor) -> Labels:
        atoms, shape = self.result.atoms, tuple(tensor.shape)
        made = atoms.plain(shape)
        if (name := self._names.get(id(tensor))) is not None:
            made = atoms.labelled(shape)
            self.result.weights[name] = _along(made)
            self.result.shapes[name] = shape
        elif (constant := self._constants.get(id(tensor))) is not None:
            name, dims = constant
            made = atoms.pin(atoms.labelled(shape), [d for d in range(len(shape)) if d not in dims])
            self.result.constants[name] = _along(made)
            self.result.constant_shapes[name] = shape
        self._set(tensor, made)
        return made

    def _set(self, tensor: Tensor, labels: Labels) -> None:
        self._alive.append(tensor)
        self._labels[id(tensor)] = labels

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = run_fast(func, args, kwargs)
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if outs:
            self._apply(Call(self.result.atoms, func, args, kwargs, outs, self.labels), inputs)
        self._note(func, inputs, outs)
        return out

    def _apply(self, call: Call, inputs: Sequence[Tensor]) -> None:
        atoms, name = call.atoms, call.func.overloadpacket.__name__
        before = [self.labels(t) for t in inputs]
        try:
            if name not in RULES:
                raise RefusedError("no rule for this operator")
            if name.endswith("_") and before[0].free and call.first._is_view():
                raise RefusedError("writing into a view of an expanded tensor")
            made = RULES[name](call)
        except RefusedError as refusal:
            if any(labels.groups for labels in before):
                where = self.stack[-1] if self.stack else ""
                self.result.refusals.append(Refusal(name, where, str(refusal)))
            for labels in before:
                atoms.fix_all(labels)
            made = [atoms.plain(t.shape) for t in call.outs]
        for tensor, labels in zip(call.outs, made, strict=True):
            self._set(tensor, labels)
            atoms.seen(labels)

    def _note(self, func: Any, inputs: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
        operators, maker = self.result.operators, self._maker
        operator = Operator(
            func.overloadpacket.__name__,
            self.stack[-1] if self.stack else "",
            tuple(outs[0].shape) if outs else (),
            tuple(self._names[id(t)] for t in inputs if id(t) in self._names),
            tuple(maker[id(t)] for t in inputs if id(t) in maker),
        )
        maker |= dict.fromkeys(map(id, outs), len(operators))
        operators.append(operator)


def _along(labels: Labels) -> list[np.ndarray | None]:
    """The atoms along each dimension of a tensor whose dimensions are labelled one by one."""
    of = {g.factors: g.atoms for g in labels.groups}
    return [of.get(d) for d in labels.dims]


@contextmanager
def module_names(model: nn.Module, stack: list[str]) -> Iterator[None]:
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
