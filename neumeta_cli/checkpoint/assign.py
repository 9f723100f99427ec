"""Putting tensors into a network."""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

from neumeta_cli.checkpoint.naming import read_names


def put_tensors(
    model: nn.Module, tensors: Mapping[str, Tensor], assign: bool = False, strict: bool = True
) -> nn.Module:
    """``load_state_dict`` for tensors that come without the versions that modules ask for.

    Args:
        model: takes the tensors; a parameter with several names stays one.
        tensors: by name.
        assign: the model shares the tensors instead of copying them.
        strict: every name must occur on both sides.

    Raises:
        RuntimeError: a tensor is missing or of another shape.

    """
    shared = other_names(model)
    state = OrderedDict(tensors)
    state.update({name: state[first] for name, first in shared.items() if first in state})
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(state, assign=assign, strict=strict)
    for name, first in shared.items():  # assigning took tied weights apart
        owner, _, key = name.rpartition(".")
        setattr(model.get_submodule(owner), key, model.get_parameter(first))
    return model


def other_names(model: nn.Module) -> dict[str, str]:
    """Further names of parameters that have several, to the first."""
    first: dict[int, str] = {}
    named = model.named_parameters(remove_duplicate=False)
    return {n: first[id(p)] for n, p in named if first.setdefault(id(p), n) != n}


def take_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> int:
    """Copy weights into a network where names and shapes agree, also those of a part of it.

    Args:
        model: changed in place.
        tensors: of this network, or of one that it has in it, such as an encoder.

    Returns:
        How many tensors were taken; 0 if the file has nothing for this network.

    """
    own = model.state_dict()
    parts = {
        prefix: {n.removeprefix(prefix): t for n, t in own.items() if n.startswith(prefix)}
        for prefix in ("", *(f"{name}." for name, _ in model.named_modules() if name))
    }
    found: dict[str, Tensor] = {}
    for prefix, part in sorted(parts.items(), key=lambda item: (-len(item[1]), item[0])):
        if len(part) <= len(found):
            break
        named = {n: tensors[old] for n, old in read_names(tensors, part).names.items()}
        fitting = [n for n, t in named.items() if n in part and part[n].shape == t.shape]
        if len(fitting) > len(found):
            found = {prefix + name: named[name] for name in fitting}
    put_tensors(model, found, strict=False)
    return len(found)
