"""How fast the page of a report is in a browser: bytes, first paint, the time until it can be used, and sorting.

A made-up report of 40 detectors on 12 OOD sets (480 cells), or the file that is named, is opened from disk in headless
Chromium. Run: python perf/report_page.py [--repeats 5] [--file report.html]. Needs chromium and playwright.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

SORT = """
(heading) => new Promise((done) => {
  const start = performance.now();
  jQuery("#matrix table").one("draw.dt", () => {
    document.querySelector("#matrix").scrollHeight;
    done(performance.now() - start);
  });
  heading.click();
})
"""
"""Clicks a heading, and waits until the table is drawn and laid out again."""


def made_up(folder: Path) -> Path:
    sys.path.insert(0, str(ROOT))
    from oodbench.benchmark.views.report.page import write_report
    from tests.views.report_pages import made_up_report

    return write_report(made_up_report(40, sets=12, id_sets=1), folder / "report.html")


PARTS = ("ScriptDuration", "RecalcStyleDuration", "LayoutDuration")
"""What Chromium counts of the page's own thread, here as CPU time, which other work on the machine hardly lengthens."""


def cpu(session: Any) -> float:
    """Milliseconds of CPU that the page's thread has spent on scripts, styles and layout."""
    found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    return 1000 * sum(found[name] for name in PARTS)


def times(browser: Any, path: Path) -> dict[str, float]:
    """Milliseconds of one visit."""
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(path.as_uri())
    page.wait_for_selector("#matrix tbody tr")
    paints = page.evaluate("performance.getEntriesByType('paint').map(one => [one.name, one.startTime])")
    found = {"first paint": dict(paints)["first-paint"]}
    found["usable (DOM complete)"] = page.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
    for view in ("Table", "All cells"):
        page.click(f"text={view}")
        rows = page.locator("#matrix tbody tr").count()
        before = cpu(session)
        walls = [page.locator("#matrix thead tr.names th").nth(place).evaluate(SORT) for place in (4, 5, 6)]
        found[f"sort {rows} rows"] = statistics.median(walls)
        found[f"sort {rows} rows, CPU"] = (cpu(session) - before) / len(walls)
    page.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        sys.exit("There is no chromium: apt-get install chromium.")
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = options.file.resolve() if options.file else made_up(Path(folder))
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"] * (os.geteuid() == 0))
        times(browser, path)  # the first page also starts the browser's processes
        visits = [times(browser, path) for _ in range(options.repeats)]
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB; medians of {options.repeats} visits (slowest)")
        for name in visits[0]:
            values = [visit[name] for visit in visits]
            print(f"  {name:24} {statistics.median(values):7.0f} ms  ({max(values):.0f})")
        browser.close()


if __name__ == "__main__":
    main()
