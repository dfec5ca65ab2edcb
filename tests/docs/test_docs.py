"""What the documents show works, and what they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oodbench.benchmark.cli.cards import detectors_page
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.verify.plugin_checks import run_checks
from tests.docs.pages import FENCE

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("results/*.md")])


@pytest.mark.parametrize("page", ["README.md", "docs/guides/add_a_detector.md"])
def test_the_example_detector_keeps_the_contract(page: str, tmp_path: Path) -> None:
    code = re.search(r"```python\n(# my_detector\.py\n.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert code is not None
    file = tmp_path / "my_detector.py"
    file.write_text(code[1])
    names = registry.load_file(file)
    results = [result for _, name in names for result in run_checks([name], tmp_path)]
    assert results
    assert [result for result in results if result.status != "ok"] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", prose):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_page_of_detectors_is_up_to_date() -> None:
    made = (ROOT / "docs" / "detectors.md").read_text(encoding="utf-8")
    assert made.strip() == detectors_page().strip(), "run: python -m oodbench.benchmark.cli.cards > docs/detectors.md"


def test_the_page_of_detectors_tells_what_is_in_the_classes() -> None:
    page = detectors_page()
    section = page.partition("\n## knn\n")[2].partition("\n## ")[0]
    assert "Deep Nearest Neighbors, ICML 2022." in section
    assert "\n## constant\n\nConstant.\n" in page  # it has no paper
    assert "Settings: `fraction=1.0`, `bank_seed=0`, `k=none`." in section
    assert "```text\n|z - z_(k)|" in section
    assert "\n**Differs:** OpenOOD tunes k" in section
    assert "\n**Default of `k`:** 50, but at most the number of images that the bank has of a class" in section
    assert "Default of" not in section.partition("```text")[2].partition("```")[0]
    rows = page.partition("| setting | default | authors | default suite |")[2].partition("\n\n")[0]
    assert "\n| [`knn`](#knn) `k` | 50, but at most " in rows
    assert all(row.count(" | ") == 3 for row in rows.splitlines()[2:])
    assert "| [`knn`](#knn) | k nearest neighbours | features, similarities | 0 | |" in page
