"""What is known of a network and its images before they are fitted, in one screen."""

from pathlib import Path
from typing import TYPE_CHECKING

from neumeta_cli.reporting import counted

if TYPE_CHECKING:
    from rich.table import Table

    from neumeta_cli.direct import Forecast, Job

MOST_NAMED = 8  # classes, and architectures that fit as well
MOST_HELD = 3
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"))


def found_table(job: "Job", forecast: "Forecast", output: Path | None = None) -> "Table":
    """The table that is shown before a fit.

    Args:
        job: what would be fitted.
        forecast: of that fit.
        output: the manifold's file, where it is known.

    """
    from rich.table import Table
    from rich.text import Text

    made = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in _lines(job, forecast, output):
        made.add_row(name, Text(value))
    return made


def _lines(job: "Job", forecast: "Forecast", output: Path | None) -> list[tuple[str, str]]:
    from neumeta_cli.training.precision import in_words

    checkpoint, recipe = job.checkpoint, job.recipe
    others = [arch.name for arch in checkpoint.others]
    more = f" ({_some(others, MOST_NAMED)} would fit too; --arch chooses)" if others else ""
    parameters = sum(p.numel() for p in checkpoint.model.parameters())
    base = f"{counted(recipe.fit.epochs, 'epoch')} in batches of {recipe.fit.batch_size:,}"
    scope = recipe.scope if isinstance(recipe.scope, str) else ", ".join(recipe.scope)
    lines = [
        ("checkpoint", f"{checkpoint.path}, {in_bytes(checkpoint.path.stat().st_size)}"),
        ("architecture", f"{checkpoint.arch.name}, {parameters:,} parameters{more}"),
        ("images", _images(job)),
        ("can morph", _morphs(job)),
        ("scope", scope),
        ("fit", base),
    ]
    if job.task.test.classes:
        names = job.task.test.classes
        lines.insert(2, ("classes", f"{len(names):,}: {_some(names, MOST_NAMED)}"))
    memory = f"{in_bytes(forecast.memory)} of memory"
    looks = recipe.fit.start_images if recipe.inr.chooses else 0
    before = f", after a look at {counted(min(looks, len(job.task.train or ())), 'image')}"
    steps = f"about {in_words(forecast.seconds)} in {forecast.precision}, {memory}"
    lines.append(("takes", steps + (before if looks else "")))
    file = "a manifold's file" if output is None else str(output)
    lines.append(("writes", f"{file} of about {in_bytes(forecast.stored)}"))
    left = ", ".join(f"{width:g}: {part:.0%}" for width, part in forecast.parts.items())
    return [*lines, ("parameters left", f"at width {left}")]


def _images(job: "Job") -> str:
    channels, height, width = job.checkpoint.input_size
    train, test = job.task.train, job.task.test
    count = 0 if train is None else len(train)
    colours = "grey, " if channels == 1 else ""
    labels = "" if train is None or train.labelled else ", without labels"
    return f"{count:,} for training{labels}, {len(test):,} for testing; {colours}{height}×{width}"


def _morphs(job: "Job") -> str:
    trace = job.frame.trace
    held = [clique for clique in trace.cliques if clique.held]
    free = len(trace.cliques) - len(held)
    told = f"{free} of {counted(len(trace.cliques), 'clique')}"
    if not held:
        return told
    return f"{told}; held: {_some([clique.name for clique in held], MOST_HELD)}"


def _some(names: "list[str] | tuple[str, ...]", most: int) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def in_bytes(count: float) -> str:
    """A number of bytes as people say it."""
    for size, name in UNITS:
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count:.0f} bytes"
