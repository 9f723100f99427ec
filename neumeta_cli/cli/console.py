"""How commands speak: tables to stdout, progress and errors to stderr."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.table import Table

PLAIN_INTERVAL = 30.0  # seconds between plain progress lines
PLAIN_WIDTH = 160
COLOURS = {"FORCE_COLOR", "TTY_COMPATIBLE"}  # variables by which rich takes a pipe for a terminal


class Settings:
    """What ``--quiet`` and ``--debug`` set for this process."""

    quiet = False
    debug = False


def _console(stderr: bool) -> "Console":
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    width = None if terminal or "COLUMNS" in os.environ else PLAIN_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=not terminal)


def say(content: Any) -> None:
    """Print a line or a table for people to stdout, unless ``--quiet``."""
    if not Settings.quiet:
        _console(stderr=False).print(content)


def echo(line: str) -> None:
    """The same for a plain line, without rich."""
    if not Settings.quiet:
        print(line)


def note(line: str) -> None:
    """Print a line to stderr, unless ``--quiet``."""
    if not Settings.quiet:
        _say_on_stderr("", line)


def complain(line: str) -> None:
    """Print an error's one line to stderr."""
    _say_on_stderr("error: ", " ".join(line.split()))


def _say_on_stderr(label: str, line: str) -> None:
    """With colours on a terminal; elsewhere without rich, which takes longer than the rest."""
    if not (sys.stderr.isatty() or COLOURS & os.environ.keys()):
        print(label + line, file=sys.stderr)
        return
    from rich.text import Text

    text = Text(line, style="" if label else "dim")
    _console(stderr=True).print(Text(label, style="bold red") + text)


def write_json(target: str | None, document: Any) -> None:
    """Write ``--json FILE``; ``-`` is stdout."""
    if target == "-":
        sys.stdout.write(to_json(document) + "\n")
    elif target is not None:
        from neumeta_cli.checkpoint import write_text

        write_text(Path(target), to_json(document) + "\n")


def to_json(document: Any) -> str:
    """JSON as our files have it."""
    return json.dumps(document, indent=2, ensure_ascii=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    """A rich table; the first column is text, the others numbers."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        made.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def escape(text: str) -> str:
    """Text in which nothing is taken for rich's markup."""
    from rich.markup import escape

    return escape(text)


class TerminalReporter:
    """Progress bars with rate and time left; plain lines when stderr is no terminal."""

    def __init__(self) -> None:
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._what, self._total, self._done = "", 0, 0
        self._started = self._said = 0.0

    def tell(self, line: str) -> None:
        self.finish()
        note(line)

    def start(self, what: str, total: int) -> None:
        self.finish()
        self._what, self._total, self._done = what, total, 0
        self._started = self._said = time.monotonic()
        if Settings.quiet or not sys.stderr.isatty():
            return
        from neumeta_cli.cli.bars import progress_bar

        self._live = progress_bar(_console(stderr=True))
        self._live.start()
        self._task = self._live.add_task(what, total=total, note="")

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        if self._live is not None and self._task is not None:
            self._live.advance(self._task, steps)
            if note:
                self._live.update(self._task, note=note)
        elif time.monotonic() - self._said >= PLAIN_INTERVAL:
            self._said = time.monotonic()
            self._line(note)

    def finish(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _line(self, text: str) -> None:
        seconds = time.monotonic() - self._started
        rate = self._done / seconds
        left = (self._total - self._done) / rate if rate else 0.0
        from neumeta_cli.cli.bars import rate_in_words

        note(
            f"{self._what}: {self._done:,}/{self._total:,}, {rate_in_words(rate)}, "
            f"{left / 60:.1f} min left{', ' + text if text else ''}"
        )
