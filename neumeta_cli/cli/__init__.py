"""The command line: a command parses, calls one function, prints."""

import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import typer

from neumeta_cli.cli import comparing, exporting, files, fitting, information, stages
from neumeta_cli.cli.console import Settings, complain
from neumeta_cli.distill import launched_processes
from neumeta_cli.errors import NeumetaError
from neumeta_cli.hardware import keep_freed_memory

app = typer.Typer(
    name="neumeta",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="One pretrained checkpoint in, networks of any width out (Neural Metamorphosis).",
)
app.command()(stages.trace)
app.command()(stages.permute)
app.command()(fitting.distill)
app.command()(fitting.fit)
app.command("eval")(files.evaluate)
app.command()(comparing.compare)
app.command()(comparing.report)
app.command()(exporting.export)
app.command()(information.info)
app.command()(fitting.train)
app.add_typer(fitting.recipes, name="recipes")


@app.callback()
def _options(
    show_version: bool = typer.Option(False, "--version", is_eager=True, help="Print the version."),
) -> None:
    pass


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 1."""
    if "--version" in sys.argv[1:2]:
        print(version("neumeta"))
        return
    if "--debug" not in sys.argv:
        warnings.simplefilter("ignore")  # libraries' own; ours are errors or notes
    keep_freed_memory()
    Settings.quiet = launched_processes()[1] > 0  # the first of several processes speaks for all
    try:
        with _tidy_when_terminated():
            app()
    except NeumetaError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except MemoryError:
        _fail("out of memory; use fewer images (fit.limit), views or a smaller batch")
    except OSError as error:
        _fail(f"{error.filename or 'file'}: {error.strerror or error}")
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else ""
        _fail(f"internal: {type(error).__name__}: {text} (--debug shows where; please report it)")


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


def _fail(message: str) -> None:
    if Settings.debug or "--debug" in sys.argv:
        traceback.print_exc()
    complain(message)
    sys.exit(1)
