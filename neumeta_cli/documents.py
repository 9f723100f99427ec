"""JSON and YAML that anybody may have written: read, or refused in one line."""

import json
from typing import Any

MOST_NODES = 100_000  # of YAML, each counted as often as it is named; a recipe has a few hundred
MOST_SHOWN = 80  # letters of a value that a message quotes
TOO_DEEP = "it is nested too deeply"


def read_json(text: str) -> Any:
    """The document.

    Raises:
        ValueError: it is none.

    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error


def read_yaml(text: str) -> Any:
    """The document; no tag of it runs anything.

    A name may stand for a list of names, and so on: a few lines then are more than any memory
    holds as soon as they are written out. Such a document is refused.

    Raises:
        ValueError: it is none, or it would be too large.

    """
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _nodes_under(node, {}) > MOST_NODES:
            raise ValueError(f"its names stand for more than {MOST_NODES:,} values")
        return loader.construct_document(node)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # also of numbers and dates
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0]) from error


def quoted(value: Any) -> str:
    """A value as a message has it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def _nodes_under(node: Any, counted: dict[int, int]) -> int:
    """How many nodes there are where every name is written out; ValueError if one holds itself."""
    from yaml import MappingNode, SequenceNode

    if id(node) not in counted:
        counted[id(node)] = 0  # under way
        inner: list[Any] = []
        if isinstance(node, SequenceNode):
            inner = node.value
        elif isinstance(node, MappingNode):
            inner = [part for pair in node.value for part in pair]
        counted[id(node)] = 1 + sum(_nodes_under(part, counted) for part in inner)
    elif counted[id(node)] == 0:
        raise ValueError("a list or a mapping in it holds itself")
    return counted[id(node)]
