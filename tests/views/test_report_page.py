"""The page of a report as a file: what it contains, what it refuses, and that names stay text. No browser needed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.views.report import page
from oodbench.benchmark.views.report.page import report_page, write_report
from tests.views.report_pages import made_up_report

HOSTILE = (
    "</script><script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 1'>",
    '"><b onclick="window.hit = 1">',
    "<!--",
    "=cmd()",
    "{{ 7 * 7 }}",
    "a_b & c{d}$",
)
"""Names that are marks, formulas or templates somewhere."""


class _Reader(HTMLParser):
    """Collects what a browser would run or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.scripts: list[tuple[str, str]] = []
        self.title = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "script":
            self.scripts.append((dict(attrs).get("type") or "", ""))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script" and not self.scripts[-1][1]:
            self.scripts[-1] = (self.scripts[-1][0], data)
        if self.tags and self.tags[-1] == "title" and not self.title:
            self.title = data


def read(text: str) -> _Reader:
    reader = _Reader()
    reader.feed(text)
    return reader


def test_a_page_that_would_not_change_is_left_alone(tmp_path: Path) -> None:
    path = write_report(made_up_report(), tmp_path / "report.html")
    before = path.stat()
    write_report(made_up_report(), path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_equal_data_give_equal_bytes(tmp_path: Path) -> None:
    path = write_report(made_up_report(), tmp_path / "report.html")
    assert path.read_bytes() == report_page(made_up_report()).encode()


def test_the_data_are_in_the_page_once_and_whole() -> None:
    found = [text for kind, text in read(report_page(made_up_report(3))).scripts if kind == "application/json"]
    assert len(found) == 1
    data = json.loads(found[0])
    assert [row["name"] for row in data["rows"]] == ["Detector 1", "Detector 2", "Detector 3"] * 2
    assert data["cells"][0]["stats"]["auroc"][0] == made_up_report(3).cells[0].stats["auroc"].mean


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_text(name: str) -> None:
    calm, hostile = (
        report_page(made_up_report(3, title="calm")),
        report_page(made_up_report([name, "b", "c"], title=name, note=name)),
    )
    assert read(hostile).tags == read(calm).tags
    assert read(hostile).title.strip() == name.strip()
    assert json.loads(next(text for kind, text in read(hostile).scripts if kind))["rows"][0]["name"] == name


def test_the_policy_allows_exactly_the_scripts_of_the_page_and_no_address() -> None:
    reader = read(report_page(made_up_report()))
    policy = next(value for name, value in reader.attributes if name == "content" and "script-src" in value)
    scripts = [text for kind, text in reader.scripts if kind == "module"]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts}
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert len(scripts) == 2
    assert set(rules["script-src"].split()) == hashes
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert not [pair for pair in reader.attributes if pair[0] in ("src", "href") and re.match(r"(https?:)?//", pair[1])]


def test_own_scripts_never_parse_html() -> None:
    assets = Path(str(page.__file__)).parent / "assets"
    assert {path.stem for path in assets.glob("*.js")} == {*page.SCRIPTS}
    for path in assets.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|DOMParser", path.read_text()
        )


def test_a_script_that_would_end_its_element_is_written_otherwise() -> None:
    script = page._embeddable("a = '</script>'; b = '<SCRIPT>'; c = /<!--/; d = 1<2")
    assert script == r"a = '\x3C/script>'; b = '\x3CSCRIPT>'; c = /\x3C!--/; d = 1<2"


def test_without_itables_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page._library.cache_clear()
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    with pytest.raises(OodbenchError, match="needs the package itables"):
        report_page(made_up_report(2))
    (tmp_path / "html").mkdir()
    (tmp_path / page.BUNDLE).write_text("export { a as b };")
    monkeypatch.setattr(page, "find_spec", lambda name: type("Spec", (), {"origin": str(tmp_path / "__init__.py")}))
    with pytest.raises(OodbenchError, match="does not export jQuery"):
        report_page(made_up_report(2))


def test_a_report_of_40_detectors_and_12_cells_is_under_8_mb() -> None:
    assert len(report_page(made_up_report(40, sets=12, id_sets=1)).encode()) < 8e6
