"""The page of a report in a browser: what it shows, keyboard, accessibility, print, hostile names, no network."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oodbench.benchmark.views.report.data import ReportData
from oodbench.benchmark.views.report.page import write_report
from tests.views.report_pages import made_up_report
from tests.views.test_report_page import HOSTILE

pytestmark = pytest.mark.slow

WIDTHS = (390, 1024, 1600)
WATCH = """
Object.defineProperty(navigator, "clipboard", { value: { writeText: async (text) => { window.copied = text; } } });
"""

Open = Callable[..., Any]


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a report; at the end of the test, no error may have been reported and nothing requested."""
    wrong: list[str] = []
    pages: list[Any] = []

    def show(
        data: ReportData, width: int = 1600, dark: bool = False, ready: str = "#matrix tbody tr", **options: Any
    ) -> Any:
        path = write_report(data, tmp_path / f"report-{len(pages)}.html")
        theme = "dark" if dark else "light"
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme, **options)
        page.add_init_script(WATCH)
        page.on("console", lambda line: wrong.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda one: None if one.url.startswith(("data:", path.as_uri())) else wrong.append(one.url))
        page.goto(path.as_uri())
        page.wait_for_selector(ready)
        pages.append(page)
        return page

    yield show
    for page in pages:
        page.close()
    assert wrong == []


def names_of(page: Any) -> list[str]:
    """The rows as shown, from the top."""
    found: list[str] = page.eval_on_selector_all(
        "#matrix tbody tr[data-at]", "lines => lines.map(line => line.querySelector('th').firstChild.textContent)"
    )
    return found


def numbers(page: Any, column: int) -> list[str]:
    """The numbers of one column of buttons."""
    found: list[str] = page.eval_on_selector_all(
        "#matrix tbody tr[data-at]",
        "(lines, at) => lines.map(line => line.querySelectorAll('.open[data-set]')[at].firstChild.textContent)",
        column,
    )
    return found


def sort_by(page: Any, column: str, way: str) -> None:
    """Click a heading, after which the table must be sorted that way."""
    page.get_by_role("columnheader", name=column).click()
    page.wait_for_selector(f"#matrix th[aria-sort='{way}']:has-text('{column}')", timeout=5000)


# Numbers


def test_numbers_are_those_of_the_data_and_sort(show: Open) -> None:
    data = made_up_report(12, sets=4, id_sets=1)
    page = show(data)
    mean = {row.name: row.means["near"]["auroc"].mean for row in data.rows if "near" in row.means}
    best_first = sorted(mean, key=lambda name: -mean[name])
    assert names_of(page)[: len(mean)] == best_first
    assert set(names_of(page)[len(mean) :]) == {row.name for row in data.rows} - {*mean}
    area = {data.rows[cell.row].name: cell.stats["auroc"].mean for cell in data.cells if cell.set == 0}
    assert numbers(page, 0) == [f"{100 * area[name]:.2f}" for name in names_of(page)]
    sort_by(page, "ood-2", "descending")
    area = {data.rows[cell.row].name: cell.stats["auroc"].mean for cell in data.cells if cell.set == 2}
    assert names_of(page) == sorted(area, key=lambda name: -area[name])
    sort_by(page, "ood-2", "ascending")
    assert names_of(page) == sorted(area, key=lambda name: area[name])


def test_missing_numbers_come_last_in_both_directions(show: Open) -> None:
    page = show(made_up_report(9, sets=4, id_sets=1))
    for way in ("descending", "ascending"):
        sort_by(page, "ood-1", way)
        assert names_of(page)[-1] == "Detector 7"
        assert numbers(page, 1)[-1] == "failed"


def test_metric_seed_filter_group_and_columns(show: Open) -> None:
    data = made_up_report(9, sets=4, id_sets=1, seeds=3)
    page = show(data)
    page.select_option("#metric", "fpr_at_tpr95")
    rate = {data.rows[c.row].name: c.stats["fpr_at_tpr95"].mean for c in data.cells if c.set == 0 and c.stats}
    assert numbers(page, 0) == [f"{100 * rate[name]:.2f}" for name in names_of(page)]
    page.select_option("#seed", "2")
    assert numbers(page, 0) == [f"{100 * (rate[name] - 0.008):.2f}" for name in names_of(page)]
    page.get_by_role("searchbox").fill("label_4")
    assert names_of(page) == ["Detector 5"]
    page.get_by_role("searchbox").fill("nothing of the kind")
    assert "No detector matches" in page.inner_text("#matrix")
    page.get_by_role("searchbox").fill("")
    page.select_option("#group", "kind")
    assert page.eval_on_selector_all(".dtrg-group", "all => all.map(one => one.textContent)") == [
        "Trained (3)", "Post-hoc (6)"
    ]  # fmt: skip
    page.click("text=Columns")
    page.get_by_role("checkbox", name="ood-3").uncheck()
    assert page.locator("#matrix thead").inner_text().count("ood-") == 3


def test_the_threshold_moves_with_exact_shares(show: Open) -> None:
    data = made_up_report(3, sets=2, id_sets=1)
    page = show(data)
    page.locator(".open[data-set]").first.click()
    fpr = next(cell for cell in data.cells if data.rows[cell.row].name == names_of(page)[0]).stats["fpr_at_tpr95"].mean

    def readouts() -> list[float]:
        texts: list[str] = page.eval_on_selector_all(".readouts dd", "all => all.map(one => one.textContent)")
        return [float(text.rstrip("%")) / 100 for text in texts]

    tpr, shown, precision, _ = readouts()
    assert tpr == pytest.approx(0.95, abs=0.005)
    assert shown == pytest.approx(fpr, abs=0.005)
    assert precision == pytest.approx(tpr / (tpr + shown), abs=0.002)
    page.get_by_label("Share of OOD images").fill("10")
    assert readouts()[2] == pytest.approx(0.9 * tpr / (0.9 * tpr + 0.1 * shown), abs=0.002)
    page.get_by_role("slider", name="Threshold").fill("1000")
    assert readouts()[0] == 1.0


def test_a_detector_opens_by_its_name_and_is_compared(show: Open) -> None:
    data = made_up_report(6, sets=2, id_sets=1)
    page = show(data)
    page.click("text=Detector 3")
    area = {cell.row: cell.stats["auroc"].mean for cell in data.cells if cell.set == 1}
    line = page.locator("dialog tbody tr", has_text="ood-1").inner_text().split("\t")
    assert line[1] == f"{100 * area[2]:.2f}"
    assert line[3] == f"{1 + sum(one > area[2] for one in area.values())} of 6"
    page.click("text=Compare with another")
    assert not page.is_visible("dialog#cell")
    assert page.input_value("#compare-a") == "2"


def test_comparison_of_two_detectors(show: Open) -> None:
    data = made_up_report(5, sets=2, id_sets=1)
    page = show(data)
    page.select_option("#compare-a", "1")
    page.select_option("#compare-b", "4")
    pairs = next(one for one in data.pairs if one.set == 0)
    place = [(a, b) for a in range(5) for b in range(a + 1, 5)].index((1, 4))
    text = page.locator("#compare-body tbody tr").first.inner_text().split("\t")
    assert text[3].replace("\N{MINUS SIGN}", "-") == f"{100 * pairs.differences[place]:+.2f}"
    page.click("text=Swap")
    text = page.locator("#compare-body tbody tr").first.inner_text().split("\t")
    assert text[3].replace("\N{MINUS SIGN}", "-") == f"{-100 * pairs.differences[place]:+.2f}"


def test_reports_without_numbers_open(show: Open) -> None:
    full = made_up_report(2, sets=2, id_sets=1)
    failed = [
        msgspec.structs.replace(cell, status="failed", reason="<it> failed", stats={}, by_seed=[], curve=None)
        for cell in full.cells
    ]
    rows = [msgspec.structs.replace(row, means={}, accuracy=None) for row in full.rows]
    nothing: dict[str, Any] = {"metrics": [], "pairs": [], "mistakes": [], "pictures": [], "published": []}
    page = show(msgspec.structs.replace(full, rows=rows, cells=failed, distributions=[], **nothing))
    assert numbers(page, 0) == ["failed", "failed"]
    page.locator(".open[data-set]").first.click()
    assert "<it> failed" in page.inner_text("dialog")
    empty = msgspec.structs.replace(full, rows=[], cells=[], id_sets=[], distributions=[], seeds=[], **nothing)
    assert "no cells yet" in show(empty, ready="#matrix p").inner_text("#matrix")


# Reading it


def test_keyboard(show: Open) -> None:
    page = show(made_up_report(6, sets=3, id_sets=2))
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.open[data-set]')"):
            break
    at = "[document.activeElement.dataset.set, document.activeElement.closest('tr').rowIndex]"
    column, row = page.evaluate(at)
    assert page.is_visible("#tip")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(at) == [str(int(column) + 1), row + 1]
    page.keyboard.press("Enter")
    assert page.is_visible("dialog#cell")
    assert not page.is_visible("#tip")
    page.keyboard.press("Escape")
    assert not page.is_visible("dialog#cell")
    assert page.evaluate(at) == [str(int(column) + 1), row + 1]
    page.keyboard.press("Tab")
    assert not page.evaluate("document.activeElement.matches('.open')"), "the table has more than one stop"
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(at) == [str(int(column) + 1), row + 1]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1600])
def test_axe_finds_nothing_serious(show: Open, width: int, dark: bool) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install -e '.[dev]' brings axe-core")
    # The page's policy lets no other script run, axe neither.
    page = show(made_up_report(7, sets=4, id_sets=2, seeds=2), width, dark, bypass_csp=True)

    def check(what: str) -> None:
        found = axe.Axe().run(page).response["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert not serious, f"{what}: " + "; ".join(f"{one['id']}: {one['nodes'][0]['html']}" for one in serious)

    check("table")
    page.click("text=Heat map")
    check("heat map")
    page.click("text=All cells")
    check("all cells")
    page.locator(".open[data-set]").nth(1).click()
    check("cell")


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out(show: Open, width: int) -> None:
    page = show(
        made_up_report(["A detector with a rather long name " * 2, "b", "c"], sets=8, id_sets=9, seeds=3), width
    )
    for view in ("Table", "Heat map", "All cells"):
        page.click(f"text={view}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
    page.locator(".open[data-set]").first.click()
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= width


@pytest.mark.parametrize("width", [400, 1200])
def test_auroc_by_class_is_read_at_any_width(show: Open, width: int) -> None:
    data = made_up_report(2, sets=5, id_sets=1)
    page = show(data, width)

    def opened(place: int) -> Any:
        page.locator(f"#matrix tbody tr[data-at='0'] .open[data-set='{place}']").click()
        assert page.evaluate("document.querySelector('dialog').scrollWidth") <= width
        return page.locator("dialog")

    numbers = data.cells[0].by_class
    assert numbers is not None
    sheet = opened(0)
    assert sheet.locator("table.classes tbody tr").count() == 10  # ID classes, of which there are more, go down
    cells = sheet.locator("table.classes tbody tr").nth(3).locator("td").all_inner_texts()
    assert cells == [f"{100 * value:.0f}" for value in numbers.pairs[3]]
    shades = sheet.locator("table.classes tbody td").evaluate_all(
        "cells => cells.map(cell => Number(getComputedStyle(cell).getPropertyValue('--share')))"
    )
    flat = [value for row in numbers.pairs for value in row]
    assert shades == pytest.approx([min(1, (1 - value) / 0.5) for value in flat], abs=1e-3)
    boxes = sheet.locator("table.classes tbody td").evaluate_all(
        "cells => cells.map(cell => [cell.scrollWidth > cell.clientWidth + 1, cell.getBoundingClientRect().width])"
    )
    assert not any(cut for cut, _ in boxes)
    assert min(wide for _, wide in boxes) >= 20
    lines = sheet.locator("table.by-class").first.locator("tbody tr")
    shown = [float(line.split("\t")[-3]) for line in lines.all_inner_texts()]
    assert shown == pytest.approx(sorted(round(100 * one[0], 1) for one in numbers.of_ood), abs=0.051)
    page.keyboard.press("Escape")
    sheet = opened(1)
    assert sheet.locator("table.classes tbody tr").count() == 100  # turned: the 10 ID classes go across
    assert "the 30 lowest of 100" in sheet.inner_text()
    page.keyboard.press("Escape")
    sheet = opened(2)
    assert sheet.locator("table.classes").count() == 0
    assert "The 30 lowest of 10 x 200 pairs" in sheet.inner_text()
    page.keyboard.press("Escape")
    assert "by class" not in opened(3).inner_text()


LINES_OF_WORDS = """
cells => cells.map(cell => {
  const name = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT).nextNode();
  return [...name.textContent.matchAll(/\\S+/g)].map(word => {
    const range = document.createRange();
    range.setStart(name, word.index);
    range.setEnd(name, word.index + word[0].length);
    return [word[0], new Set([...range.getClientRects()].map(box => Math.round(box.top))).size];
  });
}).flat()
"""


def test_names_break_between_words_on_a_phone(show: Open) -> None:
    names = [
        "Relative Mahalanobis",
        "Mahalanobis (all blocks)",
        "Confidence loss (original GAN)",
        "temperature_scaling",
    ]
    page = show(made_up_report([*names, "a" * 60], sets=4, id_sets=1), width=390)
    lines = dict(page.eval_on_selector_all("#matrix tbody tr[data-at] .first", LINES_OF_WORDS))
    assert {word: count for word, count in lines.items() if count != 1} == {"a" * 60: lines["a" * 60]}
    assert lines["a" * 60] > 1
    width = page.eval_on_selector("#matrix tbody tr[data-at] .first", "cell => cell.getBoundingClientRect().width")
    assert width <= 0.55 * 390


def test_print_shows_the_table_without_controls(show: Open) -> None:
    page = show(made_up_report(40, sets=4, id_sets=2), dark=True)
    page.emulate_media(media="print")
    assert not page.is_visible("#controls")
    assert not page.is_visible("nav")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    box = page.evaluate(
        "[document.querySelector('#matrix').clientHeight, document.querySelector('#matrix').scrollHeight]"
    )
    assert box[0] == box[1], "rows are cut"
    assert page.pdf(prefer_css_page_size=True).count(b"/Type /Page\n") >= 2


def test_dark_and_light(show: Open) -> None:
    page = show(made_up_report(3), dark=True)
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.click("#theme")
    light = page.evaluate(colour)
    assert light == "rgb(255, 255, 255)" != dark
    page.reload()
    assert page.evaluate(colour) == light, "the choice is forgotten"


def test_the_address_remembers(show: Open) -> None:
    page = show(made_up_report(3))
    page.select_option("#metric", "tnr_at_tpr95")
    page.click("text=id-1")
    page.reload()
    assert page.input_value("#metric") == "tnr_at_tpr95"
    assert page.is_checked("input[name='id-set'][value='1']")


# Names


def test_hostile_names_are_text_everywhere(show: Open) -> None:
    data = made_up_report(list(HOSTILE), sets=2, id_sets=1, title=HOSTILE[0], note=HOSTILE[1])
    page = show(data)
    assert page.title() == HOSTILE[0]
    assert sorted(names_of(page)) == sorted(HOSTILE)
    page.select_option("#group", "data")
    page.locator(".open[data-set]").first.click()
    page.keyboard.press("Escape")
    page.select_option("#compare-a", "2")
    page.select_option("#mistakes-by", "1")
    page.click("text=All cells")
    page.get_by_role("searchbox").fill("img")
    assert names_of(page) == [HOSTILE[1]] * 2
    assert page.evaluate("window.hit") is None
    assert page.evaluate("document.querySelectorAll('main b[onclick], main img[onerror], main script').length") == 0


def test_copies_are_escaped(show: Open) -> None:
    page = show(made_up_report(list(HOSTILE), sets=2, id_sets=1))
    page.click("text=Copy")
    page.click("text=As CSV")
    lines = page.evaluate("window.copied").splitlines()
    assert lines[0].startswith("detector,label,also_used,")
    assert any(line.startswith("'=cmd(),") for line in lines)
    assert any(line.startswith('"""><b onclick=""window.hit = 1"">",') for line in lines)
    page.click("text=As LaTeX")
    tex = page.evaluate("window.copied")
    assert r"\begin{tabular}{lrrrr}" in tex
    assert tex.count(r"\\") == len(HOSTILE) + 1
    assert r"\textbf{" in tex


def test_the_latex_that_is_copied_compiles(show: Open, tmp_path: Path) -> None:
    if not (pdflatex := shutil.which("pdflatex")):
        pytest.skip("there is no pdflatex; .ci/system_packages installs it where it can")
    data = made_up_report([*HOSTILE, "~^\\[1pt] %&"], sets=3, id_sets=1)
    page = show(msgspec.structs.replace(data, rows=[msgspec.structs.replace(row, latex="") for row in data.rows]))
    page.click("text=Copy")
    page.click("text=As LaTeX")
    table = page.evaluate("window.copied")
    lines = [r"\documentclass{article}", r"\usepackage[T1]{fontenc}", r"\usepackage{booktabs}", r"\begin{document}"]
    (tmp_path / "table.tex").write_text("\n".join([*lines, table, r"\end{document}"]), encoding="utf-8")
    command = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "table.pdf").is_file()
