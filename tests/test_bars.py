"""The progress bar keeps what matters at any width of a terminal."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from neumeta_cli.cli.bars import progress_bar, rate_in_words

NOTE = "epoch 3/40: loss 1.234, task 0.311, distill 0.923, top-1 at γ 0% 97.49%, at γ 50% 93.59%"


def drawn(width: int, steps: int) -> str:
    """The bar's one line after some of 12,000 steps, in half a second each."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    progress = progress_bar(console)
    now = [0.0]
    progress.get_time = lambda: now[0]
    task = progress.add_task("fit", total=12_000, note=NOTE)
    for _ in range(steps):
        now[0] += 0.5
        progress.advance(task)
    with console.capture() as captured:
        console.print(progress.get_renderable())
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", captured.get()).rstrip("\n").split("\n")
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_bar_rate_and_time_left_come_before_the_loss(width: int) -> None:
    line = drawn(width, 300)
    assert len(line) <= width
    assert re.match(r"fit \S+ +300/12000 2\.0/s \d+:\d\d:\d\d epoch 3/40", line), line
    assert ("…" in line) == (width < 200)


@given(st.floats(0.001, 1e5))
def test_less_than_one_step_a_second_is_told_in_seconds(speed: float) -> None:
    told = rate_in_words(speed)
    assert told.endswith("/s") == (speed >= 1)
    number = float(told.partition("/")[0].partition(" ")[0])
    assert number == pytest.approx(speed if speed >= 1 else 1 / speed, abs=0.051)


def test_nothing_is_told_of_a_speed_that_is_not_known() -> None:
    assert rate_in_words(None) == rate_in_words(0.0) == ""
