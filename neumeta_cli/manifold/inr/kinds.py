"""The kinds of INR: a file beside this one for each, and a line here."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Union, cast

from pydantic import BeforeValidator, Field

from neumeta_cli.manifold.inr.base import Inr, InrSettings

NAMES = (
    "mlp",
    "factorised",
    "selected",
    "integral",
)
DEFAULT = "selected"


def _kind_in(name: str) -> type[Inr]:
    return cast(type[Inr], import_module(f"{__package__}.{name}").INR)


KINDS = {name: _kind_in(name) for name in NAMES}


def inr_settings(kind: str = DEFAULT, **fields: Any) -> InrSettings:
    """The settings of an INR.

    Args:
        kind: of ``KINDS``.
        fields: the settings that are not to be the kind's defaults.

    Raises:
        ValueError: no such kind, or a field or value that it does not have.

    """
    if kind not in KINDS:
        raise ValueError(f"no INR of kind {kind!r}; there are: {', '.join(KINDS)}")
    return KINDS[kind].settings_type(**({"kind": kind} | fields))


def own_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those that a kind of INR has; files used to hold the fields of all kinds."""
    kind = fields.get("kind", DEFAULT)
    own = KINDS[kind].settings_type.model_fields if kind in KINDS else fields
    return {name: value for name, value in fields.items() if name in own}


def _read(given: Any) -> Any:
    """Leave out what other kinds have by default, and say which kind has what this one lacks."""
    if not isinstance(given, Mapping):
        return given
    fields = dict(given)
    kind = fields.setdefault("kind", DEFAULT)
    if not isinstance(kind, str) or kind not in KINDS:
        return fields
    for name in fields.keys() - own_fields(fields).keys():
        others = [k for k, i in KINDS.items() if name in i.settings_type.model_fields]
        value = fields.pop(name) if others else None
        defaults = [KINDS[k].settings_type.model_fields[name].default for k in others]
        if others and value not in defaults:
            raise ValueError(f"{name} is of kind {' and '.join(others)}, and this is kind {kind}")
    return fields


if TYPE_CHECKING:
    AnyInrSettings = InrSettings
else:
    AnyInrSettings = Annotated[
        Union[tuple(inr.settings_type for inr in KINDS.values())],  # noqa: UP007
        Field(discriminator="kind"),
        BeforeValidator(_read),
    ]
