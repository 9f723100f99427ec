"""What every command has: how much it says, and what is settled before it begins."""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from neumeta_cli.cli.console import Settings
from neumeta_cli.hardware import keep_freed_memory

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
SHARED = {"quiet": Quiet, "debug": Debug}

# What libraries warn of that nobody who runs a command can mend: the beginning, and the category.
SILENCED: tuple[tuple[str, type[Warning]], ...] = (
    # torchvision since 0.29, of every image read; torchcodec, which it advises, is not needed here.
    ("The image decoding and encoding capabilities of TorchVision", DeprecationWarning),
    # torch, of a transformer encoder that it runs at its usual speed; the network is the user's.
    ("enable_nested_tensor is True, but", UserWarning),
    # torch-pruning, of parameters outside known layers; wrong shapes are refused after it.
    ("Unwrapped parameters detected", UserWarning),
)


class Command(TyperCommand):
    """A command whose options cost nothing where they are not given."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [_as_it_is(param) for param in super().get_params(ctx)]


class Group(TyperGroup):
    """The same for a group of commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [_as_it_is(param) for param in super().get_params(ctx)]


def _as_it_is(param: Any) -> Any:
    """Take what is not given as None, whatever its type, and a text or a default as it is.

    Typer does so too, but since 0.29 it imports pydantic before it finds out, which takes longer
    than all the rest of a command that needs no torch.
    """
    process = type(param).process_value
    kind = getattr(getattr(param, "type_descriptor", None), "annotation", None)

    def processed(ctx: Any, value: Any) -> Any:
        nothing = value is None and (not param.required or ctx.resilient_parsing)  # completion
        if not nothing and type(value) is not kind:
            return process(param, ctx, value)
        return value if param.callback is None else param.callback(ctx, param, value)

    param.process_value = processed
    return param


def as_command(function: Callable[..., None]) -> Callable[..., None]:
    """A function as a command of the program, with ``--quiet`` and ``--debug``."""

    @functools.wraps(function)
    def run(*, quiet: bool, debug: bool, **given: Any) -> None:
        Settings.quiet = Settings.quiet or quiet
        Settings.debug = Settings.debug or debug
        if not debug:
            for message, category in SILENCED:
                warnings.filterwarnings("ignore", message, category)
        keep_freed_memory()
        function(**given)

    signature = inspect.signature(function)
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in SHARED.items()
    ]
    own = signature.parameters.values()
    run.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    about = inspect.getdoc(function) or ""
    run.__doc__ = about.replace("\nExample: ", "\n\b\nExample: ")  # a line that is not broken
    run.__annotations__ = function.__annotations__ | SHARED
    return run
