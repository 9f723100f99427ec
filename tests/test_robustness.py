"""The benchmark of robustness: it counts what it should, and runs from one end to the other."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from network_checks import check_network
from programs import Program
from random_networks import network
from tally import (
    COSTLY,
    HALF,
    HEADER,
    TRACEBACK,
    WRONG,
    Half,
    Outcome,
    Tally,
    Wrong,
    judged,
    record,
    rewrite,
    tried,
)

from neumeta_cli.errors import NeumetaError

BENCHMARK = Path(__file__).parent / "benchmarks" / "robustness.py"


def raised(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def work_for_long() -> None:
    begun = time.process_time()
    while time.process_time() < begun + 9:
        pass


@pytest.mark.parametrize(
    ("work", "fault"),
    [
        (lambda: None, None),
        (raised(NeumetaError("x is damaged")), None),
        (raised(NeumetaError("two\nlines")), TRACEBACK),
        (raised(NeumetaError(" ")), TRACEBACK),
        (raised(KeyError("x")), TRACEBACK),
        (raised(Wrong("x")), WRONG),
        (raised(Half("x")), HALF),
        (raised(SystemExit(1)), TRACEBACK),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), TRACEBACK),
        (work_for_long, COSTLY),
        (lambda: time.sleep(30), COSTLY),
        (lambda: torch.ones(3 << 28), COSTLY),  # 3 GiB, of which one is allowed
    ],
)
def test_whatever_a_case_does_is_counted_as_what_it_is(
    work: Callable[[], None], fault: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forked.PATIENCE", 1)
    assert tried(work, 0.1).fault == fault


def test_a_refusal_is_counted_with_its_words() -> None:
    outcome = judged(raised(NeumetaError("x is damaged")))
    assert (outcome.refused, outcome.fault) == ("x is damaged", None)


def test_parts_that_were_counted_apart_are_one_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n\n{HEADER}\n|---|\n| of another time |\n\nAfter.\n", "utf-8")
    records = []
    for what, kind in (("cuts", TRACEBACK), ("kills", HALF)):
        tally = Tally(what)
        for outcome in (Outcome(), Outcome(refused="damaged"), Outcome(fault=kind)):
            tally.add("a case", outcome)
        records.append(record([tally], f"commit of {what}") | {"processor": "AVX2"})
    rewrite(page, json.loads(json.dumps([*records, records[0]])))
    before, _, header, ruler, *rows, blank, after = page.read_text("utf-8").splitlines()
    assert (before, header, blank, after) == ("Before.", HEADER, "", "After.")
    assert ruler.count("|") == header.count("|")
    assert rows == [
        "| cuts | 6 | 2 | 2 | 0 | 0 | 0 | AVX2, commit of cuts |",
        "| kills | 3 | 1 | 0 | 0 | 1 | 0 | AVX2, commit of kills |",
    ]


@pytest.mark.slow
def test_a_few_files_of_each_sort(tmp_path: Path) -> None:
    options = "--quick", "--part", "files", "--part", "hostile"
    program = Program(BENCHMARK, *options, "--json", tmp_path / "x.json", merged=True)
    said, _ = program.communicate()
    assert program.returncode == 0, said
    rows = json.loads((tmp_path / "x.json").read_text("utf-8"))["rows"]
    assert len(rows) == 7
    assert all(row["cases"] and not row["faults"] for row in rows)
    assert sum(row["refused"] for row in rows) > 9


@pytest.mark.slow
def test_a_random_network_with_attention(tmp_path: Path) -> None:
    assert "Attention(" in str(network(69))
    check_network(69, tmp_path, programs=())
