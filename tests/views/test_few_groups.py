"""A table says why intervals are wide where a set has few independent groups of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.records.record import Record, write_record
from oodbench.benchmark.records.run import StoredRun, read_stored_run, write_run_info
from oodbench.benchmark.views.run import FORMATS
from oodbench.benchmark.views.tables.text import text_table
from tests.support import run_suite, write_suite

BECAUSE = "Intervals are wide where a set has few independent groups"
GROUPS = {"writers": 4, "photographs": 2, "sky": 1, "crops": 100, "nine": 9, "ten": 10, "noise": None}


def run_of(folder: Path, intervals: dict[str, tuple[float, float]], **of_pairs: Any) -> StoredRun:
    """A run of one detector on OOD sets with these intervals of AUROC; ID set `writers`."""
    names = []
    for ood_set, ends in intervals.items():
        cell = Record(
            id_set="writers", ood_set=ood_set, group="far", outlier_source=False, seen=False, detector="probe",
            settings={}, recipe="plain", recipe_settings={}, backbone="small_cnn", seed=0, label="probe", n_id=500,
            n_ood=500, metrics=dict.fromkeys(METRICS, sum(ends) / 2), intervals={key: list(ends) for key in METRICS},
        )  # fmt: skip
        names.append(write_record(folder, cell).name)
    pairs = [
        {"id_set": "writers", "ood_set": name, "group": "far", "id_groups": 4, "ood_groups": GROUPS[name]} | of_pairs
        for name in intervals
    ]
    write_run_info(folder, {"cells": names, "pairs": pairs})
    return read_stored_run(folder)


def below(run: StoredRun) -> str:
    return " ".join(text_table(run, 1000).partition("Percent.")[2].split())


@pytest.mark.parametrize(
    "widest, why",
    [
        ("photographs", "4 groups in writers and 2 groups in photographs"),
        ("sky", "4 groups in writers and 1 group in sky"),
        ("crops", "4 groups in writers"),
        ("noise", "4 groups in writers"),
        ("nine", "4 groups in writers and 9 groups in nine"),
        ("ten", "4 groups in writers"),
    ],
)
def test_the_widest_interval_is_explained(tmp_path: Path, widest: str, why: str) -> None:
    intervals = dict.fromkeys(GROUPS, (0.8, 0.9)) | {widest: (0.0, 1.0)}
    del intervals["writers"]
    text = below(run_of(tmp_path, intervals))
    assert f"10.0 points wide in the median cell, 100.0 in the widest (writers, probe, {widest}: {why})." in text


def test_every_set_with_few_groups_is_named_with_their_number(tmp_path: Path) -> None:
    intervals = {name: (0.8, 0.9) for name in GROUPS if name != "writers"}
    line = below(run_of(tmp_path, intervals)).partition(BECAUSE)[2].partition(": ")[2].partition(".")[0]
    assert line == "4 groups in writers, 2 groups in photographs, 1 group in sky, 9 groups in nine"


@pytest.mark.parametrize("groups", [{"id_groups": None, "ood_groups": None}, {"id_groups": 50, "ood_groups": 100}])
def test_nothing_is_said_where_groups_are_many_or_none(tmp_path: Path, groups: dict[str, int | None]) -> None:
    text = below(run_of(tmp_path, {"crops": (0.1, 0.9)}, **groups))
    assert BECAUSE not in text
    assert "80.0 in the widest (writers, probe, crops)." in text


def test_a_run_of_an_older_version_has_no_numbers_of_groups(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"crops": (0.1, 0.9)})
    for pair in run.info["pairs"]:
        del pair["id_groups"], pair["ood_groups"]
    write_run_info(tmp_path, run.info)
    assert BECAUSE not in below(read_stored_run(tmp_path))


@pytest.mark.parametrize("forged", ["four", 4.5, [4]])
def test_a_number_of_groups_that_is_none_is_refused(tmp_path: Path, forged: object) -> None:
    with pytest.raises(UserError, match="does not describe a run: 'pairs"):
        run_of(tmp_path, {"crops": (0.1, 0.9)}, id_groups=forged)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_says_it(tmp_path: Path, form: str) -> None:
    run = run_of(tmp_path, {"photographs": (0.0, 1.0)})
    text = " ".join(FORMATS[form](run).split())
    assert (BECAUSE in text) == (form != "csv")


def test_a_run_stores_and_prints_the_groups_of_its_sets(tmp_path: Path) -> None:
    matrix = """
[[id]]
set = "digits[0-3]"
ood = [{ set = "patches", group = "far" }, { set = "drawn-textures+inverted" }, { set = "uniform" }]
"""
    run = run_suite(write_suite(tmp_path, matrix))
    groups = {pair["ood_set"]: (pair["id_groups"], pair["ood_groups"]) for pair in run.info["pairs"]}
    assert groups == {"patches": (4, 3), "drawn-textures+inverted": (4, 100), "uniform": (4, None)}
    assert "4 groups in digits[0-3], 3 groups in patches." in below(run)
