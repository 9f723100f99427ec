"""Where in a file the state dict lies, when training has put other things around it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from neumeta_cli.checkpoint.naming import is_averaged
from neumeta_cli.errors import NeumetaError

# Keys under which a network lies by custom, the first before the later ones; the last is that of
# our own fits' state.
CUSTOMARY = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "params",
    "weights",
    "field",
)
MOST_LEVELS = 6  # of dicts within dicts that are looked into
Keys = tuple[str, ...]


def choose_state(path: Path, content: Mapping[Any, Any], key: str | None) -> tuple[Keys, list[str]]:
    """Find the state dict in what a file holds.

    One that lies alone is taken. Of several, weights come before averaged copies of them (EMA),
    and customary keys such as ``state_dict`` before others.

    Args:
        path: the file, for messages.
        content: what was read.
        key: the one that the user asks for: its key, or its keys joined with dots; without effect
            where no state dict has it, as it may be a prefix in one.

    Returns:
        The keys under which it lies, none for the content itself, and the names of the others.

    Raises:
        NeumetaError: there are several, of which none is preferred.

    """
    every = _states(content, MOST_LEVELS)
    found = [keys for keys in every if is_asked(keys, key)] or every
    if not found:
        return (), []
    plain = [keys for keys in found if not is_averaged(".".join(keys))] or found
    ranks = [_rank(keys) for keys in plain]
    best = [keys for keys, rank in zip(plain, ranks, strict=True) if rank == min(ranks)]
    if len(best) > 1:
        raise NeumetaError(
            f"{path} holds several state dicts: {', '.join(map('.'.join, found))}; "
            "choose one with --weights-key (model.weights_key in a recipe)"
        )
    return best[0], [".".join(keys) or "the top" for keys in every if keys != best[0]]


def is_asked(keys: Keys, key: str | None) -> bool:
    """Whether a user's ``key`` names what lies under ``keys``; without one everything is asked."""
    return key is None or key in keys or f"{'.'.join(keys)}.".startswith(f"{key}.")


def under(content: Any, keys: Keys) -> Any:
    """What lies under keys within keys."""
    for key in keys:
        content = content[key]
    return content


def _states(content: Mapping[Any, Any], levels: int) -> list[Keys]:
    """The keys of every state dict in ``content``, which may be one itself."""
    if "param_groups" in content or not levels:  # of an optimizer
        return []
    inner = [
        (key, *keys)
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Mapping) and not key.endswith("_extra_state")
        for keys in _states(value, levels - 1)
    ]
    own = [k for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)]
    dotted = any("." in name for name in own)
    # A tensor beside state dicts is no weight, unless its name tells of a layer; nor is a number
    # that a callback of the training keeps.
    alone = not inner and (levels == MOST_LEVELS or any(content[name].dim() for name in own))
    return [(), *inner] if own and (dotted or alone) else inner


def _rank(keys: Keys) -> int:
    """Of the outermost key; the content itself comes first."""
    customs = ("", *CUSTOMARY)
    outermost = keys[0] if keys else ""
    return customs.index(outermost) if outermost in customs else len(customs)
