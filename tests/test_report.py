"""The page, opened in a real browser."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import DigitsFit

from neumeta_cli.compare import compare_methods
from neumeta_cli.recipe import load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("with_charts")]

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
        if (found := shutil.which(name))
    ),
    None,
)
QUICK = ["fit.epochs=1", "fit.limit=64", "fit.precision=float32", "train.precision=float32"]
QUICK += ["noise.samples=2", "permute.solver=greedy", "eval.watch=0"]
QUICK += ["compare.images=40", "compare.seeds=2"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_what_the_json_says(neumeta, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    recipe = load_recipe("digits_lenet", [*QUICK, "compare.methods=[neumeta,individual,l1]"])
    comparison = compare_methods(recipe, tmp_path / "run")
    assert neumeta("report", tmp_path / "run").code == 0
    page_file = tmp_path / "run" / "report" / "report.html"
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        rows = page.locator("table[data-metric=top-1] tbody tr").all()
        shown = {r.get_attribute("data-method"): r.locator("td").all_inner_texts() for r in rows}
        sizes = page.eval_on_selector_all("img", "all => all.map(i => i.naturalWidth)")
        captions = page.locator("figcaption").all_inner_texts()
        browser.close()
    assert [url for url in asked if not url.startswith(("data:", page_file.as_uri()))] == []
    gammas = [0.0, 0.25, 0.5, 0.75]
    for method in comparison.methods:
        own = {row.gamma: row for row in method.rows}
        expected = [
            f"{100 * own[g].metrics['top-1']:.2f} ± {100 * own[g].deviations['top-1']:.2f}"
            if g in own
            else ""
            for g in gammas
        ]
        assert shown[method.method][:5] == [method.label, *expected]
        assert shown[method.method][7] == f"{method.stored_bytes:,}"
    assert len(sizes) == len(captions) == 8
    assert all(width > 300 for width in sizes)


def test_a_fit_has_a_report_too(neumeta, digits_fit: DigitsFit) -> None:
    run = digits_fit.manifold.parent
    assert neumeta("report", run, "-o", "page").code == 0
    table = json.loads((run / "report" / "table.json").read_text("utf-8"))
    page = Path("page/report.html").read_text("utf-8")
    for row in table["rows"]:
        assert f"{100 * row['metrics']['top-1']:.2f}" in page
    assert {p.stem for p in Path("page").glob("*.png")} == {
        *("metric_over_gamma", "metric_over_cost", "total_variation", "weights", "loss"),
        *("cka", "cka_pairs", "kl"),
    }
    channels = table["channels"]
    assert channels["gammas"] == [0.0, 0.25, 0.5, 0.75]
    for row in channels["rows"]:
        first, *narrower = map(int, row["channels"])
        assert narrower == [round(first * width) for width in (0.75, 0.5, 0.25)]
        assert f"<td>{'</td><td>'.join(row['channels'])}</td>" in page
    alike = table["similarity"]
    assert alike["gammas"] == [None, 0.0, 0.25, 0.5, 0.75]
    assert alike["cka_pairs"][0][1] == pytest.approx(1, abs=1e-3)  # up to the file's 8 bits
    assert alike["kl"][0][1] == pytest.approx(0, abs=1e-3)
    assert alike["kl"][0][4] > alike["kl"][0][2] > 0
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_folder_without_a_run_is_refused(neumeta, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = neumeta("report", tmp_path / "empty")
    assert result.code == 1
    assert "no finished run" in result.stderr
    (tmp_path / "empty" / "compare.json").write_text("{")
    assert neumeta("report", tmp_path / "empty").code == 1
