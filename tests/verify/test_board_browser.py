"""A leaderboard in a browser: sorting, metrics, filter, intervals, keyboard, accessibility, and no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark.verify.board.site import Site, write_leaderboard
from tests.support import draw_no_plots
from tests.verify.test_board import SETS, scored

pytestmark = pytest.mark.slow

PICKY = "2"
"""The row of the bundle 'three': methods are called by the files with their scores."""

WIDTHS = (390, 1024, 1600)

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site of three methods, one of which lacks a set, and a file that is refused."""
    folder = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        draw_no_plots(patch)
        for name in ("one", "two"):
            scored(folder, name)
        scored(folder, "three", {name: SETS[name] for name in ("photos", "svhn")})
    (folder / "text.zip").write_text("hello")
    return write_leaderboard(folder, folder / "site", reports=False)


@pytest.fixture
def show(browser: Any, site: Site) -> Iterator[Open]:
    """Opens a page; at the end of the test, no error may have been reported and nothing requested."""
    wrong: list[str] = []
    pages: list[Any] = []

    def show(path: Path | str = "index.html", width: int = 1600, dark: bool = False) -> Any:
        theme = "dark" if dark else "light"
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
        inside = site.folder.absolute().as_uri()
        page.on("console", lambda line: wrong.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda one: None if one.url.startswith(inside) else wrong.append(one.url))
        page.goto((site.folder.absolute() / path).as_uri())
        pages.append(page)
        return page

    yield show
    for page in pages:
        page.close()
    assert wrong == []


def rows(page: Any) -> list[list[str]]:
    """The texts of the rows that are shown, from the top."""
    found: list[list[str]] = page.eval_on_selector_all(
        "table[data-board] tbody tr:not([hidden])",
        "lines => lines.map(line => [...line.cells].map(c => c.textContent))",
    )
    return found


def test_rows_sort_by_any_column_and_those_without_a_number_come_last(show: Open) -> None:
    page = show()
    names = [row[0] for row in rows(page)]
    assert names[-1] == PICKY
    for way in ("descending", "ascending"):
        page.get_by_role("button", name="all mean").click()
        assert page.locator(f"th[aria-sort={way}]").inner_text().startswith("all mean")
        means = [row[1] for row in rows(page)]
        assert means[-1] == "\N{EN DASH}"
        assert means[:2] == sorted(means[:2], key=float, reverse=way == "descending")
    page.get_by_role("button", name="Method").press("Enter")
    assert [row[0] for row in rows(page)] == sorted(names)


def test_another_metric_is_shown_with_its_intervals(show: Open, site: Site) -> None:
    page = show()
    row = site.boards[0].rows[0]
    assert rows(page)[0][2].startswith(f"{100 * row.cells['svhn']['auroc'].mean:.1f}")
    page.get_by_label("Metric").select_option("fpr_at_tpr95")
    page.get_by_label("95% intervals").check()
    stat = row.cells["svhn"]["fpr_at_tpr95"]
    low, high = (f"{100 * end:.1f}" for end in stat.interval or ())
    shown = next(texts for texts in rows(page) if texts[0] == row.name)[2]
    assert shown.replace("°", "") == f"{100 * stat.mean:.1f} {low}\N{EN DASH}{high}"
    page.get_by_role("button", name="svhn").click()  # the lowest is best
    assert page.locator("th[aria-sort=ascending]").count() == 1


def test_rows_are_filtered_and_counted(show: Open) -> None:
    page = show()
    page.get_by_label("Filter rows").fill("THREE")
    assert [row[0] for row in rows(page)] == [PICKY]
    assert page.get_by_role("status").inner_text() == "1 of 3 rows"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["index.html", "bundles/one.html"])
def test_pages_are_accessible_and_fit(show: Open, name: str, width: int, dark: bool) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install -e '.[dev]' brings axe")
    page = show(name, width, dark)
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
