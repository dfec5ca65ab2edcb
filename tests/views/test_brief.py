"""The short table that `bench run` ends with: the best rows of a large run, the whole table of a small one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from oodbench.benchmark.records.record import Record, write_record
from oodbench.benchmark.records.run import StoredRun, read_stored_run, write_run_info
from oodbench.benchmark.views.tables.brief import BEST, BEST_ALONE, WHOLE_LINES, WHOLE_ROWS, closing_text
from oodbench.benchmark.views.tables.text import text_table
from tests.views.test_warnings import record

SETS = {"greek": "near", "patches": "far", "uniform": "far"}


def area(row: int, ood_set: str) -> float:
    """AUROC in thousandths: the last rows are the best on near sets, the first ones on far sets."""
    return (500 + 7 * row if SETS[ood_set] == "near" else 950 - 7 * row) / 1000


def made_up(folder: Path, rows: int, id_sets: tuple[str, ...] = ("digits",), **info: Any) -> StoredRun:
    """A run of so many detectors, with long and with short names."""
    names = []
    for id_set in id_sets:
        for row in range(rows):
            label = f"detector_{row}" + "_of_a_long_name" * (row % 3)
            for ood_set, group in SETS.items():
                cell = record([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], detector=label, ood_set=ood_set)
                metrics = {**cell.metrics, "auroc": area(row, ood_set)}
                cell = replace(cell, id_set=id_set, group=group, metrics=metrics, ties={})
                names.append(write_record(folder, cell).name)
    write_run_info(folder, {"name": "large", "cells": names, **info})
    return read_stored_run(folder)


@pytest.mark.parametrize("width", [40, 60, 80, 140])
@pytest.mark.parametrize("rows", [WHOLE_ROWS + 1, 60])
def test_a_large_run_ends_with_a_screen_that_fits(tmp_path: Path, rows: int, width: int) -> None:
    run = made_up(tmp_path / "runs" / "large", rows, ("digits", "glyphs"))
    text = closing_text(run, width)
    lines = [line for line in text.splitlines() if str(tmp_path) not in line]  # a path is not broken
    assert max(map(len, lines)) <= width
    assert str(run.path) in text
    assert len(text.splitlines()) < (50 if width == 40 else 40)
    assert text.count(f"and {rows - BEST} more rows") == 2
    assert "ID set digits, small_cnn" in text
    assert "ID set glyphs, small_cnn" in text


def test_it_has_the_best_rows_by_near_mean_with_the_numbers_of_the_table(tmp_path: Path) -> None:
    run = made_up(tmp_path / "runs" / "large", 60)
    text = closing_text(run, 140)
    rows = [line.split() for line in text.splitlines() if line.startswith("detector_")]
    expected = range(59, 59 - BEST_ALONE, -1)
    assert [int(row[0].split("_")[1]) for row in rows] == list(expected)
    whole = text_table(run, 1000)
    for row, number in zip(rows, expected, strict=True):
        near, far = 100 * area(number, "greek"), 100 * area(number, "uniform")
        label, accuracy, *means = row
        assert accuracy == "90.0"
        assert [mean.rstrip("*") for mean in means] == [f"{near:.1f}", f"{far:.1f}", *_worst(near, far)]
        assert f"{label} " in whole
    assert rows[0][2].endswith("*"), "the best of its column is shown"
    assert not any(row[3].endswith("*") for row in rows), "the best far mean is that of a row that is not"


def _worst(near: float, far: float) -> list[str]:
    return [f"{near:.1f}", "greek"] if near <= far else [f"{far:.1f}", "patches"]


def test_colour_is_bold_and_changes_no_layout(tmp_path: Path) -> None:
    run = made_up(tmp_path / "runs" / "large", 20)
    for width in (40, 140):
        plain, coloured = closing_text(run, width), closing_text(run, width, colour=True)
        assert "\x1b[1m" in coloured
        head = click.unstyle(coloured).partition("Percent")[0].replace(" ", "")
        assert head == plain.partition("Percent")[0].replace("*", "").replace(" ", "")


def test_warnings_and_notes_are_counted_with_where_they_are(tmp_path: Path) -> None:
    skipped = [{"what": "mc_dropout", "reason": "no dropout"}]
    run = made_up(tmp_path / "runs" / "large", 20, notes=["One thing.", "Another."], skipped=skipped)
    text = " ".join(closing_text(run, 1000).split())
    # Far sets that rank worse than chance would warn; here none does.
    assert f"Not shown: 2 notes, 1 skipped. They are under the table in {run.path / 'table.md'}." in text
    assert f"The whole table: bench table {run.path}" in text
    assert "One thing" not in text
    assert "Not shown" not in closing_text(made_up(tmp_path / "runs" / "plain", 20), 1000)


def test_commands_are_short_where_the_run_is_in_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = made_up(Path("results") / "runs" / "my-run", 20)
    assert "The whole table: bench table my-run\n" in closing_text(run, 80)
    spaced = made_up(tmp_path / "two words" / "runs" / "r", 20)
    assert f"bench table '{spaced.path}'" in " ".join(closing_text(spaced, 1000).split())


def test_weights_that_fit_no_label_are_said_in_full(tmp_path: Path) -> None:
    note = "The given weights do not fit the labels of the ID set 'digits', or their order: check"
    run = made_up(tmp_path / "runs" / "large", 20)
    records = [replace(one, notes=(_misfit(note),)) for one in run.records]
    for one in records:
        write_record(run.path, one)
    text = " ".join(closing_text(read_stored_run(run.path), 1000).split())
    assert "Warning: the given weights do not fit the ID set's labels" in text


def _misfit(note: str) -> str:
    from oodbench.benchmark.records.record import MISFIT

    return f"{MISFIT}{note}"


def test_a_small_run_ends_with_its_whole_table(tmp_path: Path) -> None:
    run = made_up(tmp_path / "runs" / "small", 4)
    for width in (140, 100):
        whole = text_table(run, width)
        assert len(whole.splitlines()) <= WHOLE_LINES
        assert closing_text(run, width) == whole


def test_a_small_run_on_a_narrow_terminal_ends_with_the_short_one(tmp_path: Path) -> None:
    run = made_up(tmp_path / "runs" / "small", 4)
    assert max(map(len, text_table(run, 40).splitlines())) > 40
    text = closing_text(run, 40)
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= 40
    assert "more row" not in text, "all rows are there"
    assert text.count("detector_") == 4


def test_rows_without_numbers_are_shown_where_no_row_has_any(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "failed"
    run = made_up(folder, 12)
    for one in run.records:
        write_record(folder, failed(one))
    text = closing_text(read_stored_run(folder), 100)
    assert text.count("detector_") == BEST_ALONE
    assert "and 2 more rows" in text


def failed(one: Record) -> Record:
    return replace(one, status="failed", reason="no luck", metrics={}, id_accuracy=None)


def test_a_run_without_records_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "empty"
    write_run_info(folder, {"name": "empty", "cells": []})
    run = read_stored_run(folder)
    assert closing_text(run, 80) == text_table(run, 80)
