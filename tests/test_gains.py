"""What a fit gained and lost: three widths at its end, doubts, what the manifold's table knows."""

import re
from typing import Any

import pytest
from conftest import Told
from hypothesis import given
from hypothesis import strategies as st
from manifolds import tiny_manifold
from test_words import TABLE

from neumeta_cli.checkpoint import resolve
from neumeta_cli.cli.gains import doubts_in, gained_in, known_accuracy
from neumeta_cli.evaluate import Row
from neumeta_cli.measuring import measured_rows
from neumeta_cli.recipe import load_recipe
from neumeta_cli.resize import Cost
from neumeta_cli.tasks import Metric, load_task


@pytest.mark.slow
def test_three_widths_are_told_where_the_network_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    manifold, recipe = tiny_manifold(), load_recipe("digits_lenet", ["eval.limit=40"])
    frame, model = manifold.frame, resolve("lenet_digits").build("cpu")
    task = load_task(recipe.data, model, (1, 8, 8), train=False)
    told, shares = (
        Told(),
        {
            width: frame.cost(frame.sizes(width)).parameters / frame.cost(frame.full).parameters
            for width in (0.75, 0.5, 0.25)
        },
    )
    cost = type(frame).cost

    def refusing(self: Any, sizes: dict[str, int]) -> Any:
        if sizes == frame.sizes(0.25):
            raise RuntimeError("no such width")
        return cost(self, sizes)

    monkeypatch.setattr(type(frame), "cost", refusing)
    rows = measured_rows(manifold, model, task, [1.0, *shares], recipe, told)
    assert "width 0.25: the network does not run so narrow: no such width" in told.lines
    lines = gained_in(rows, task.metrics[0])
    assert [line.partition(" of the parameters")[0] for line in lines] == [
        f"width {width}: {share:.0%}" for width, share in list(shares.items())[:2]
    ]
    assert all(re.search(r" [\d.]+ ms \([\d.]+ before\), top-1 .*% before\)$", x) for x in lines)
    for row in rows:  # of so many images
        assert row.metrics["top-1"] * 40 == pytest.approx(
            round(row.metrics["top-1"] * 40), abs=1e-4
        )
    known = known_accuracy(manifold.provenance.metrics, 0.5)
    assert known is not None
    assert known[1] == rows[3].metrics["top-1"]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_fit_that_is_not_worth_using_is_doubted(before: float, full: float, half: float) -> None:
    cost = Cost(1, 1, 1)
    rows = [
        Row("checkpoint", 1.0, cost, {"top-1": before}),
        Row("NeuMeta", 1.0, cost, {"top-1": full}),
        Row("NeuMeta", 0.5, cost, {"top-1": half}),
        Row("ℓ1 pruning", 0.25, cost, {"top-1": 0.0}),
    ]
    told = doubts_in(rows, Metric("top-1"))
    assert any("at full width" in line for line in told) == (before - full > 0.05)
    useless = [w for w, value in (("1", full), ("0.5", half)) if value < 0.25 * before]
    assert any(f"at width {', '.join(useless)} less" in line for line in told) == bool(useless)
    assert doubts_in(rows, Metric("top-1", share=False)) == []  # not a share: no telling
    assert doubts_in(rows, None) == []


@given(st.floats(0.01, 2.0))
def test_accuracy_is_interpolated_only_within_the_table(width: float) -> None:
    known = known_accuracy(TABLE, width)
    assert (known is None) == (not 0.5 <= width <= 1)
    if known is not None:
        name, value, (low, high) = known
        assert name == "top-1"
        assert value == pytest.approx(0.90 + (width - 0.5) / 0.5 * 0.06)
        assert low <= width <= high


def test_a_manifold_without_a_table_knows_no_accuracy() -> None:
    assert known_accuracy({}, 0.5) is None
    assert known_accuracy({"table": []}, 0.5) is None
