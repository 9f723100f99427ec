"""The program: its commands, and what becomes of errors."""

import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]

from neumeta_cli import __version__
from neumeta_cli.cli.command import USAGE_ERROR, Group, Named, usage_line
from neumeta_cli.cli.completing import install_completion, show_completion
from neumeta_cli.cli.console import Settings, complain
from neumeta_cli.cli.helping import INSPECT, MEASURE, SHIP, START
from neumeta_cli.errors import NeumetaError
from neumeta_cli.hardware import launched_processes

# A command's function, by its module beside this one: imported when the command is asked for.
GROUPS = {
    START: {
        "quickstart": "distilling.quickstart",
        "trace": "tracing.trace",
        "permute": "permuting.permute",
        "distill": "distilling.distill",
        "fit": "fitting.fit",
        "train": "fitting.train",
    },
    INSPECT: {"info": "information.info", "doctor": "doctor.doctor"},
    MEASURE: {
        "eval": "evaluating.evaluate",
        "compare": "comparing.compare",
        "report": "comparing.report",
    },
    SHIP: {"export": "exporting.export"},
}
COMMANDS = {name: place for group in GROUPS.values() for name, place in group.items()}
RECIPES = {
    "list": "recipes.list_recipes",
    "show": "recipes.show_recipe",
    "schema": "recipes.schema",
}


class _Program(Group):
    named = tuple(Named(n, p, group) for group, named in GROUPS.items() for n, p in named.items())
    named += (Named("help", "helping.show_help", INSPECT),)


class _Recipes(Group):
    named = tuple(Named(name, place) for name, place in RECIPES.items())


NAME = "neumeta"
# Help is plain text: to import what rich makes boxes with takes longer than all the rest of --help.
app = typer.Typer(
    name=NAME,
    cls=_Program,
    add_completion=False,  # as options of our own below
    pretty_exceptions_enable=False,
    help="One pretrained checkpoint in, networks of any width out (Neural Metamorphosis).",
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
_recipes = typer.Typer(
    cls=_Recipes,
    rich_markup_mode=None,
    help="The experiments that come with neumeta.",
)
app.add_typer(_recipes, name="recipes", rich_help_panel=INSPECT)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_show_version, help="Print the version."
    ),
    install: bool = typer.Option(
        False,
        "--install-completion",
        callback=install_completion,
        help="Install completion for the current shell.",
    ),
    show: bool = typer.Option(
        False,
        "--show-completion",
        callback=show_completion,
        help="Print what completes commands in the current shell.",
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 1."""
    Settings.quiet = launched_processes()[1] > 0  # the first of several processes speaks for all
    try:
        with _tidy_when_terminated():
            completion_init()
            sys.exit(app(prog_name=NAME, standalone_mode=False) or 0)
    except USAGE_ERROR as error:
        _fail(usage_line(error), code=2)
    except NeumetaError as error:
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except MemoryError:
        _fail("out of memory; use fewer images (fit.limit), views or a smaller batch")
    except OSError as error:
        _fail(f"{error.filename or 'file'}: {error.strerror or error}")
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else ""
        _fail(
            f"internal: {type(error).__name__}: {text} (--debug shows where; please report it with "
            "what neumeta doctor prints)"
        )


@contextmanager
def _tidy_when_terminated() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does, so that no partial file stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str, code: int = 1) -> NoReturn:
    if Settings.debug:
        traceback.print_exc()
    complain(message)
    sys.exit(code)
