"""How plug-ins are named and cited: sound BibTeX, keys that exist, and versions that do not depend on it."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.citations.bibtex import (
    NAME,
    cited,
    entries_beside,
    entries_of,
    entry_of_text,
    plain_key,
)
from oodbench.benchmark.plugins.citations.declared import Declared, declared_in
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.source_version import code_of, source_version
from tests.support import ROOT

FOLDERS = {
    "detector": "detectors",
    "recipe": "detectors",
    "dataset": "datasets",
    "form": "datasets",
    "backbone": "benchmark/backbones",
}


def built_in(kind: str) -> dict[str, str]:
    """Name -> `cite` of the built-in plug-ins of a kind."""
    return {e.name: e.cite for e in registry.entries(kind).values() if e.origin.startswith("oodbench.")}


@pytest.mark.parametrize("kind", FOLDERS)
def test_every_key_is_in_the_file_beside_the_plug_ins(kind: str) -> None:
    beside = entries_beside(ROOT / FOLDERS[kind] / "any.py")
    for name, cite in built_in(kind).items():
        if cite:
            assert cited(cite, beside).keys() == set(cite.split(",")), name


@pytest.mark.parametrize("folder", sorted(set(FOLDERS.values())))
def test_every_entry_of_the_files_is_sound_and_cited(folder: str) -> None:
    text = (ROOT / folder / NAME).read_text(encoding="utf-8")
    entries = entries_of(text)
    assert list(entries) == sorted(re.findall(r"(?m)^@\w+\{([^,]+),", text))  # none is left out as unsound
    kinds = [kind for kind, where in FOLDERS.items() if where == folder]
    used = {key for kind in kinds for cite in built_in(kind).values() for key in cite.split(",") if key}
    assert set(entries) == used
    for key, entry in entries.items():
        year = re.search(r"year\s*=\s*\{(\d{4})\}", entry)
        assert year, key
        assert year[1] in key
        assert re.search(r"author\s*=\s*\{", entry), key
        first = re.search(r"author\s*=\s*\{([^,]+),", entry)
        assert first is not None
        assert key.startswith(re.sub(r"[^a-z]", "", first[1].lower())), key


def test_one_key_is_one_publication() -> None:
    found: dict[str, str] = {}
    for folder in FOLDERS.values():
        for key, entry in entries_beside(ROOT / folder / "any.py").items():
            assert found.setdefault(key, entry) == entry


def test_every_built_in_detector_has_a_name_for_papers_that_differs_from_others() -> None:
    shown = [e.display_name for e in registry.entries("detector").values() if e.origin.startswith("oodbench.")]
    assert all(shown)
    assert len(set(shown)) == len(shown)


def test_declared_without_importing(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "raise RuntimeError('imported')\n"
        "@detector('mine', title='Mine', display_name='MINE', cite='me2026')\nclass A: ...\n"
        "@detector('other', title=TITLE)\nclass B: ...\n@recipe('r')\nclass C: ...\n",
        encoding="utf-8",
    )
    assert list(declared_in(file, "detector")) == [Declared("mine", "Mine", "MINE", "me2026"), Declared("other")]


# Versions


def test_names_and_citations_are_no_part_of_the_version() -> None:
    plain = "@detector('a', title='A')\nclass A:\n    x = 1\n"
    named = "@oodbench.detector('a', title='A', display_name='ViM', cite='a')\nclass A:\n    x = 1\n"
    assert code_of(plain.replace("@detector", "@oodbench.detector")) == code_of(named)
    assert code_of(plain) != code_of(plain.replace("title='A'", "title='B'"))
    other = "@mine(cite='a')\nclass A:\n    x = 1\n"  # a decorator of the user's own may do anything with it
    assert code_of(other) != code_of(other.replace("'a'", "'b'"))
    called = "f = detector('a', cite='a')\n"
    assert code_of(called) != code_of(called.replace("cite='a'", "cite='b'"))


def test_a_file_with_names_has_the_version_of_one_without(tmp_path: Path) -> None:
    versions = set()
    for number, more in enumerate(("", ', display_name="MINE"', ', cite="@misc{a, title={A}}"', ', title="Mine"')):
        file = tmp_path / str(number) / "own.py"
        file.parent.mkdir()
        file.write_text(
            "from oodbench.benchmark import Detector, detector\n\n"
            f"@detector('own_{number}'{more})\nclass Own(Detector):\n"
            "    def score(self, batch):\n        return -batch.logits.amax(dim=1)\n".replace(f"own_{number}", "own"),
            encoding="utf-8",
        )
        registry.load_file(file)
        versions.add(source_version(registry.get("detector", "own")))
        registry.drop(file)
    assert len(versions) == 2  # a title is a part of the file's code, as it always was


# BibTeX


ENTRY = r"""@inproceedings{wang2022vim,
  author = {Wang, Haoqi and M{\"u}ller, X},
  title = {{ViM}: 94\% \& more}
}"""


def test_entries_are_split_by_their_braces() -> None:
    text = f"A comment, with a }} brace.\n{ENTRY}\n@comment{{no, entry}} @string{{x, y}}\n@misc{{b, title={{B}}}}"
    assert entries_of(text) == {"wang2022vim": ENTRY, "b": "@misc{b, title={B}}"}


@pytest.mark.parametrize(
    "text",
    [
        "@misc{a, title = {x}",  # not closed
        r"@misc{a, title = {\input{/etc/passwd}}}",
        r"@misc{a, title = {\write18{rm}}}",
        r"@misc{a, title = {\csname input\endcsname}}",
        r"@misc{a, title = {^^5cinput{x}}}",
        r"@misc{a, title = {\def\x{}}}",
        "@misc{a, title = {x\x1b[2J}}",
        r"@misc{a, title = {x\}}, note = {y}",
        r"@misc{b\c, title = {x}}",
        "@misc{<script>, title = {x}}",
        "@misc{a, title = {" + "x" * 30_000 + "}}",
    ],
)
def test_what_could_leave_its_field_is_no_entry(text: str) -> None:
    assert entries_of(text) == {}


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "a}b{c", r"\input{x}", "=cmd()", "50% & $x_1$ #^~", "@misc{x,", '"', "x\ny"]
)
def test_plain_text_becomes_a_sound_entry(name: str) -> None:
    entry = entry_of_text(plain_key(name), name, name)
    assert entries_of(entry) == {plain_key(name): entry}
    assert r"\input" not in entry
    assert "<" not in entry


def test_an_entry_in_the_decorator_needs_no_file() -> None:
    assert cited(ENTRY, {}) == {"wang2022vim": ENTRY}
    with pytest.raises(UserError, match=r"names 'nobody', which is no key of references\.bib"):
        cited("nobody", {})
    with pytest.raises(UserError, match="no sound BibTeX entry"):
        cited("@misc{a, title = {", {})


def test_a_file_that_is_missing_or_no_text_has_no_entries(tmp_path: Path) -> None:
    assert entries_beside(tmp_path / "x.py") == {}
    (tmp_path / NAME).write_bytes(b"\xff\xfe")
    assert entries_beside(tmp_path / "x.py") == {}
    (tmp_path / NAME).write_text(textwrap.dedent(ENTRY), encoding="utf-8")
    assert list(entries_beside(tmp_path / "y.py")) == ["wang2022vim"]
