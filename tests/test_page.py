"""What one does with the report's page, in a real browser: drag, type, click, copy."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, draw_charts
from manifolds import tiny_manifold

from neumeta_cli.compare import Comparison, report
from neumeta_cli.compare.explored import explored
from neumeta_cli.compare.report import write_report
from neumeta_cli.manifold import save_manifold
from neumeta_cli.resize import Cost

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
        if (found := shutil.which(name))
    ),
    None,
)


def in_a_browser(test: Any) -> Any:
    """Slow, and left out where there is no browser."""
    left_out = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
    return pytest.mark.slow(left_out(test))


PHONE = {"width": 390, "height": 844}
RESULTS = REPOSITORY / "examples" / "results"


def comparison() -> Comparison:
    """What was measured of the digits, without what takes long to draw."""
    found = Comparison.read(RESULTS / "compare_digits.json")
    methods = [m.model_copy(update={"similarity": None}) for m in found.methods]
    return found.model_copy(update={"methods": methods, "total_variation": None})


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("a run")
    save_manifold(run / "manifold.safetensors", tiny_manifold())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.parent)
        patch.setattr(report, "_charts", draw_charts)
        return write_report(comparison(), run, run / "report")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.goto(page_file.as_uri())
    yield opened
    context.close()
    assert wrong == []


def text(page: Any, name: str) -> str:
    return page.locator(f"#{name}").inner_text()


def number(page: Any, name: str) -> float:
    return float(re.sub(r"[^\d.]", "", text(page, name)))


def drag_to(page: Any, share: float) -> float:
    """Drag the slider to a share of its length; the width that it then has."""
    box = page.locator("#width").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 3, y)
    page.mouse.down()
    page.mouse.move(box["x"] + share * box["width"], y, steps=4)
    page.mouse.up()
    return float(page.locator("#width").input_value())


@in_a_browser
def test_the_slider_shows_what_networks_of_its_width_cost(page: Any) -> None:
    whole = tiny_manifold().frame
    for share in (0.0, 0.45, 0.8, 1.0):
        width = drag_to(page, share)
        cost: Cost = whole.cost(whole.sizes(width))
        assert number(page, "cost-parameters") == pytest.approx(cost.parameters, rel=0.03)
        assert number(page, "cost-macs") == pytest.approx(cost.macs, rel=0.05)
        assert text(page, "chosen").startswith(f"{width:g} ")
        assert f"--width {width:g} " in text(page, "command")
    # Exactly what was measured, where it was.
    for row in next(m for m in comparison().methods if m.method == "neumeta").rows:
        page.locator("#width").fill(str(row.width))
        assert number(page, "cost-parameters") == row.parameters
        assert number(page, "metric") == pytest.approx(100 * row.metrics["top-1"], abs=0.005)
        assert "about" not in text(page, "metric")


@in_a_browser
def test_rivals_stand_beside_it_at_that_width(page: Any) -> None:
    page.locator("#width").fill("0.5")
    shown = {
        row.get_attribute("data-method"): row.locator("td").all_inner_texts()
        for row in page.locator("#rivals tr").all()
    }
    found = {m.method: m.at(0.5) for m in comparison().methods}
    assert shown.keys() == found.keys()
    ours = 100 * found["neumeta"].metrics["top-1"]
    for method, row in found.items():
        value = 100 * row.metrics["top-1"]
        assert shown[method][1] == f"{value:.2f}%"
        if method != "neumeta":
            assert float(shown[method][2]) == pytest.approx(value - ours, abs=0.0051)


@in_a_browser
def test_a_budget_sets_the_slider_to_the_widest_width_within_it(page: Any) -> None:
    for unit, budget, most in (
        ("macs", "40k", 40_000),
        ("bytes", "20KB", 20_000),
        ("parameters", "6,000", 6_000),
        ("ms", "0.1", 0.1),
    ):
        page.locator("#unit").select_option(unit)
        page.locator("#budget").fill(budget)
        width = float(page.locator("#width").input_value())
        assert number(page, f"cost-{unit}") <= most
        assert text(page, "budget-said") == f"width {width:g} holds it"
        if width < 1:
            page.locator("#width").fill(str(round(width + 0.01, 2)))
            assert number(page, f"cost-{unit}") >= most * 0.999
    page.locator("#unit").select_option("macs")
    page.locator("#budget").fill("1")
    assert "the narrowest that was measured" in text(page, "budget-said")
    page.locator("#budget").fill("many")
    assert text(page, "budget-said").startswith("give an amount")


@in_a_browser
def test_the_command_that_is_copied_writes_that_network(
    page: Any, page_file: Path, neumeta: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    width = drag_to(page, 0.4)
    page.locator("#copy").click()
    page.wait_for_function("document.getElementById('copy').textContent === 'copied'")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == text(page, "command")
    monkeypatch.chdir(page_file.parents[2])
    Path("small.pt").unlink(missing_ok=True)
    told = neumeta(*shlex.split(copied)[1:])
    assert told.code == 0, told.stderr
    assert f"width {width:g}: " in told.stdout


@in_a_browser
def test_tables_are_sorted_by_a_click(page: Any) -> None:
    def column(place: int) -> list[str]:
        return [r.locator("td").nth(place).inner_text() for r in table.locator("tbody tr").all()]

    table = page.locator("table[data-metric=top-1]")
    head = table.locator("th").nth(3)
    for direction in ("ascending", "descending"):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == direction
        values = [float(cell.partition(" ")[0]) for cell in column(3) if cell]
        assert values == sorted(values, reverse=direction == "descending")
        assert column(3)[-1] == ""  # the checkpoint, which has no such width
    table.locator("th button").first.click()
    assert column(0) == sorted(column(0), key=lambda label: label.replace("ℓ", "l").casefold())


def brightness(page: Any, colour: str) -> int:
    """Red, green and blue of the page's body together."""
    told = page.evaluate(f"getComputedStyle(document.body).{colour}")
    return sum(map(int, re.findall(r"\d+", told)))


@in_a_browser
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_it_is_read_on_a_telephone_by_day_and_by_night(
    browser: Any, page_file: Path, scheme: str
) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme=scheme)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for part in ("#width", "#budget", "#copy", "#chart"):
        box = page.locator(part).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]
    seen = []
    for _ in range(2):
        ground, ink = (
            sum(
                map(
                    int, re.findall(r"\d+", page.evaluate(f"getComputedStyle(document.body).{one}"))
                )
            )
            for one in ("backgroundColor", "color")
        )
        assert abs(ground - ink) > 400  # of 765
        seen.append("dark" if ground < ink else "light")
        page.locator("#theme").click()
    assert seen == [scheme, "light" if scheme == "dark" else "dark"]
    context.close()


def test_nothing_on_the_page_tells_where_it_was_made(page_file: Path) -> None:
    page = page_file.read_text("utf-8")
    assert str(page_file.parents[2]) not in page
    assert "/root" not in page
    assert "/work" not in page
    inside = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert inside["command"] == "neumeta export 'a run0/manifold.safetensors'"
    assert inside["widths"] == [0.25, 0.5, 0.75, 1.0]
    assert 'name="viewport"' in page
    for column in re.findall(r"<th>([^<]*)</th>", page):
        assert column  # none is without a name


def test_names_of_a_user_end_no_script(tmp_path: Path) -> None:
    name = "</script><script>alert(1)</script>"
    found = comparison()
    methods = [found.methods[0].model_copy(update={"label": name})]
    told = explored(found.model_copy(update={"methods": methods}), tmp_path)["page_json"]
    assert "<" not in told
    assert json.loads(told)["methods"][0]["label"] == name
