"""Atomic writing of files, file names made from text, and the format of JSON files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.store.atomic import slug, to_json, unique_slug, write_atomically


@pytest.mark.parametrize("old", [None, "old"])
def test_a_crash_during_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str | None
) -> None:
    path = tmp_path / "run.json"
    if old is not None:
        path.write_text(old)

    def killed(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert [path.name for path in tmp_path.iterdir()] == ([] if old is None else ["run.json"])
    assert old is None or path.read_text() == old


def test_a_file_is_flushed_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_replace, real_sync = Path.replace, os.fsync

    def replaced(self: Path, target: Path) -> Path:
        calls.append("replace")
        return real_replace(self, target)

    def synced(handle: int) -> None:
        calls.append("sync")
        real_sync(handle)

    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(os, "fsync", synced)
    write_atomically(tmp_path / "deep" / "x.json", b"\x00\xff")
    assert calls[-3:] == ["sync", "replace", "sync"], "the file, its name, the folder"
    assert set(calls[:-3]) == {"sync"}, "the created folders"
    assert (tmp_path / "deep" / "x.json").read_bytes() == b"\x00\xff"


def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"^Cannot write '.*': .*\. Choose a writable folder with --results\.$"):
        write_atomically(tmp_path / "file" / "x.json", "x")


def test_json_is_sorted_and_strict() -> None:
    assert to_json({"b": 1, "a": "é"}) == '{\n  "a": "é",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        to_json({"x": float("nan")})


HOSTILE = ["../../x", "..", ".", "<b>", "/etc/passwd", "C:\\x", "a" * 300, "", " ", "\n", "con[x=1]@y", "é", "a\0b"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_slug_is_a_valid_file_name(text: str) -> None:
    assert slug(text)
    assert len(slug(text)) <= 100
    assert slug(text) not in (".", "..")
    assert slug(slug(text)) == slug(text)


ALIKE = [
    "模型",
    "модель",
    "🐈",
    "a/b",
    "a b",
    "a_b ",
    "k>5",
    "k<5",
    "a" * 101,
    "a" * 102,
    "../x",
    "x/..",
    "\udcff",
    "\udcfe",
]
"""Groups of these share a slug."""


@pytest.mark.parametrize("text", [*HOSTILE, *ALIKE])
def test_a_unique_slug_is_a_valid_file_name(text: str) -> None:
    name = unique_slug(text)
    assert name == slug(name) == unique_slug(name)
    assert len(name) <= 100


def test_different_names_have_different_unique_slugs() -> None:
    texts = {*HOSTILE, *ALIKE, *map(slug, HOSTILE), *map(slug, ALIKE)}
    assert len({unique_slug(text) for text in texts}) == len(texts)


@pytest.mark.parametrize("text", ["digits", "lee2018-small", "my.run_2", "A" * 100, "_"])
def test_plain_names_are_their_own_unique_slug(text: str) -> None:
    assert unique_slug(text) == text


def test_the_encoding_of_accents_makes_no_difference() -> None:
    assert unique_slug("caf\N{LATIN SMALL LETTER E WITH ACUTE}") == unique_slug("cafe\N{COMBINING ACUTE ACCENT}")
