"""The progress bar of a terminal."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

NARROW = 20  # characters of the bar, so that rate and time left stand before any text


class _Rate(ProgressColumn):
    """Steps a second, or seconds a step where these are fewer than one."""

    def render(self, task: Task) -> Text:
        return Text(rate_in_words(task.speed), style="progress.data.speed", no_wrap=True)


class _Note(ProgressColumn):
    """The last note, cut where the line ends."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis", ratio=1))

    def render(self, task: Task) -> Text:
        return Text(task.fields["note"], style="dim")


def rate_in_words(speed: float | None) -> str:
    """``2.5/s``, or ``4.0 s each``."""
    if not speed:
        return ""
    return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"


def progress_bar(console: Console) -> Progress:
    """A bar, the rate and the time left before a note, which is cut where the line ends."""
    whole = [Column(no_wrap=True) for _ in range(5)]
    return Progress(
        TextColumn("{task.description}", table_column=whole[0]),
        BarColumn(NARROW, table_column=whole[1]),
        MofNCompleteColumn(table_column=whole[2]),
        _Rate(table_column=whole[3]),
        TimeRemainingColumn(compact=True, table_column=whole[4]),
        _Note(),
        console=console,
        transient=True,
        expand=True,
    )
