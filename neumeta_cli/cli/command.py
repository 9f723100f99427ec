"""What every command has: how much it says, and what is settled before it begins."""

import difflib
import functools
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from neumeta_cli.cli.console import Settings
from neumeta_cli.cli.helping import (
    with_example_first,
    write_commands,
    write_options,
    write_session,
)
from neumeta_cli.hardware import keep_freed_memory

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # wherever typer keeps click
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

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_options(self, ctx, formatter)


@dataclass(frozen=True)
class Named:
    """A command that a group has.

    Attributes:
        name: as it is typed.
        place: its module beside this one, and its function there.
        group: of commands in help, that it is shown with.

    """

    name: str
    place: str
    group: str | None = None

    def function(self) -> Callable[..., None]:
        """Its function, whose module is imported now."""
        module, _, name = self.place.rpartition(".")
        found: Callable[..., None] = getattr(import_module(f"{__package__}.{module}"), name)
        return found

    def build(self) -> Any:
        """The command with all its options."""
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(self.name, cls=Command, rich_help_panel=self.group)(
            as_command(self.function())
        )
        return typer.main.get_command(alone)

    def outline(self) -> Any:
        """The command without its options, for a list of commands."""
        about = inspect.getdoc(self.function())
        return TyperCommand(self.name, help=about, rich_help_panel=self.group)


class Commands(Mapping[str, Any]):
    """The commands of a group, in its order: each is built when it is first asked for."""

    def __init__(self, named: Iterable[Named], built: Mapping[str, Any]) -> None:
        self._every = {command.name: command for command in named} | dict(built)
        self._built = dict(built)

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = self._every[name].build()
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._every)

    def __len__(self) -> int:
        return len(self._every)

    def outline(self, name: str) -> Any:
        """A command as far as a list of commands shows it."""
        command = self._every[name]
        return command.outline() if isinstance(command, Named) else command


class Group(TyperGroup):
    """The same for a group of commands, which shows its help where none is named."""

    named: ClassVar[tuple[Named, ...]] = ()

    def __init__(self, *, commands: Any = None, **given: Any) -> None:
        every: Any = Commands(self.named, commands or {})
        super().__init__(commands=every, **given)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)  # not their items, which would all be built

    def get_params(self, ctx: Any) -> list[Any]:
        return [_as_it_is(param) for param in super().get_params(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        if ctx.parent is None:
            write_session(formatter)
        write_commands(self, ctx, formatter)
        write_options(self, ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands and not ctx.resilient_parsing:
            ctx.fail(f"no command {args[0]!r}{did_you_mean(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


def usage_line(error: Any) -> str:
    """What is wrong with a command line, in one line, and where to read about it."""
    if hasattr(error, "option_name") and hasattr(error, "possibilities"):
        said = f"no option {error.option_name}"
        said += did_you_mean(error.option_name, error.possibilities or ())
    else:
        ours = isinstance(error, typer.BadParameter) and error.param is None
        said = (error.message if ours else error.format_message()).rstrip(".")
    return said if error.ctx is None else f"{said} (see: {error.ctx.command_path} --help)"


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The nearest of some words, as the end of a message; nothing if none is near."""
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _as_it_is(param: Any) -> Any:
    """Take what is not given as None, whatever its type, and texts, paths and defaults as they are.

    Typer does so too, but since 0.29 it imports pydantic before it finds out, which takes longer
    than all the rest of a command that needs no torch.
    """
    process = type(param).process_value
    kind: Any = getattr(getattr(param, "type_descriptor", None), "annotation", None)

    def processed(ctx: Any, value: Any) -> Any:
        nothing = value is None and (not param.required or ctx.resilient_parsing)  # completion
        if not nothing:
            if not _needs_no_check(kind, value):
                return process(param, ctx, value)
            value = value if get_origin(kind) is Literal else kind(value)
        return value if param.callback is None else param.callback(ctx, param, value)

    param.process_value = processed
    return param


def _needs_no_check(kind: Any, value: Any) -> bool:
    """Whether typer makes ``kind(value)`` of a value, or one of its words, and refuses nothing."""
    if kind is Path and isinstance(value, str | Path):  # what cannot be read is refused
        return os.access(value, os.R_OK) or not os.path.exists(value)
    if kind == list[str] and isinstance(value, list | tuple):
        return bool(value) and all(type(text) is str for text in value)
    return value in get_args(kind) if get_origin(kind) is Literal else type(value) is kind


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
    run.__doc__ = with_example_first(inspect.getdoc(function) or "")
    run.__annotations__ = function.__annotations__ | SHARED
    return run
