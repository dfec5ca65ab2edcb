"""Records on disk: one JSON file per cell, the list of them in run.json, and records.csv."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.records.csv_file import CSV_COLUMNS, records_csv
from oodbench.benchmark.records.record import SCHEMA, Record, read_record, write_record
from oodbench.benchmark.records.run import read_stored_run, write_run_info
from tests.support import csv_rows

RECORD = Record(
    id_set="digits",
    ood_set="glyphs",
    group="near",
    outlier_source=True,
    seen=False,
    detector="energy",
    settings={"temperature": 2.0},
    recipe="cross_entropy",
    recipe_settings={"learning_rate": 0.002},
    backbone="small_cnn",
    seed=3,
    label="energy[temperature=2.0]",
    n_id=510,
    n_ood=600,
    id_accuracy=0.1 + 0.2,
    tpr=0.9509803921568627,
    metrics={name: (k + 1) / 7 for k, name in enumerate(METRICS)},
    intervals={name: [k / 7, (k + 1) / 7 + 0.1] for k, name in enumerate(METRICS)},
    forward_images=1110,
    seconds=1.23456,
    key="abc",
    artifacts={"id_scores": "scores/x.npy"},
    notes=("One.", "Two."),
)


def test_a_record_is_read_back(tmp_path: Path) -> None:
    path = write_record(tmp_path, RECORD)
    assert path.parent == tmp_path / "cells"
    assert read_record(path) == RECORD
    data = json.loads(path.read_text())
    assert data["schema"] == SCHEMA
    assert data["id_accuracy"] == 0.1 + 0.2, "raw numbers"
    bare = replace(RECORD, n_id=None, id_accuracy=None, tpr=None, metrics={}, notes=(), status="failed", reason='é\n"x')
    assert read_record(write_record(tmp_path, bare)) == bare


def test_a_file_is_read_again_when_it_has_changed_and_only_then(tmp_path: Path) -> None:
    path = write_record(tmp_path, RECORD)
    first = read_record(path)
    assert read_record(path) is first
    other = replace(RECORD, key="abd")  # as long as before
    assert write_record(tmp_path, other) == path
    assert read_record(path) == other
    path.write_bytes(path.read_bytes().replace(b'"abd"', b'"abe"'))  # in place
    assert read_record(path).key == "abe"
    path.write_text("{}")
    with pytest.raises(UserError, match="has no schema number"):
        read_record(path)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_record(path)


def test_invalid_unicode_is_preserved(tmp_path: Path) -> None:
    """Such as in a file name on Linux."""
    strange = replace(RECORD, reason="no such file: \udcff")
    assert read_record(write_record(tmp_path, strange)) == strange


def test_fields_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    path = write_record(tmp_path, RECORD)
    path.write_text(json.dumps({**json.loads(path.read_text()), "novelty": 1}))
    assert read_record(path) == RECORD


def test_a_newer_schema_is_refused_with_both_numbers(tmp_path: Path) -> None:
    path = write_record(tmp_path, RECORD)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": SCHEMA + 41}))
    with pytest.raises(UserError) as error:
        read_record(path)
    assert str(error.value) == (
        f"'{path}' has schema {SCHEMA + 41}, newer than {SCHEMA}, the newest this oodbench reads. "
        "Upgrade oodbench, or choose another --name."
    )


@pytest.mark.parametrize(
    "content, message",
    [
        (b"{", "cannot be read as JSON ("),
        (b"", "cannot be read as JSON ("),
        (b"\xff", "cannot be read as JSON ("),
        (b"[]", "has no schema number, so it was not written by oodbench. Remove it and run again."),
        (b"{}", "has no schema number, so it was not written by oodbench. Remove it and run again."),
        (b'{"schema": "1"}', "has no schema number, so it was not written by oodbench. Remove it and run again."),
        (b'{"schema": 1}', "is not a cell record: "),
        (b'{"schema": 1, "id_set": "digits"}', "is not a cell record: "),
    ],
)
def test_an_invalid_record_is_reported(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "cell.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_record(path)
    assert str(error.value).startswith(f"'{path}' {message}")
    assert str(error.value).endswith("Remove it and run again.")


def test_a_run_shows_the_records_that_it_lists(tmp_path: Path) -> None:
    records = [replace(RECORD, seed=seed) for seed in (2, 0, 1)]
    for record in records:
        write_record(tmp_path, record)
    write_record(tmp_path, replace(RECORD, seed=9))
    names = [record.file_name for record in records]
    write_run_info(tmp_path, {"cells": [*names, "not-yet.json"], "name": "x"})
    run = read_stored_run(tmp_path)
    assert run.records == records
    assert (run.path, run.info["name"]) == (tmp_path, "x")


def test_a_run_never_reads_files_outside_its_folder(tmp_path: Path) -> None:
    write_record(tmp_path / "other", RECORD)
    (tmp_path / "run" / "cells").mkdir(parents=True)
    assert (tmp_path / "run" / "cells" / "../../other/cells" / RECORD.file_name).is_file()
    write_run_info(tmp_path / "run", {"cells": [f"../../other/cells/{RECORD.file_name}"]})
    assert read_stored_run(tmp_path / "run").records == []


def test_a_folder_without_a_run_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"' is not a run: it has no run\.json\. 'bench list runs' shows the runs that exist"
    ):
        read_stored_run(tmp_path)


HOSTILE = ["../../x", "..", ".", "<b>", "/etc/passwd", "C:\\x", "a" * 300, "", " ", "\n", "con[x=1]@y", "é", "a\0b"]


@pytest.mark.parametrize("label", HOSTILE)
def test_hostile_names_stay_in_the_folder(tmp_path: Path, label: str) -> None:
    record = replace(RECORD, label=label, id_set=label, ood_set=label)
    path = write_record(tmp_path, record)
    assert path.resolve().parent == (tmp_path / "cells").resolve()
    assert len(path.name) < 255
    assert set(path.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not path.name.startswith(".")
    assert read_record(path) == record


def test_plain_names_are_readable() -> None:
    assert replace(RECORD, label="msp").file_name == "msp--digits--glyphs--s3.json"
    assert RECORD.file_name.startswith("energy_temperature_2.0--digits--glyphs--s3-")


NAMES = [*HOSTILE, "a_b", "a[b]", "a@b", "x" * 99 + "1", "x" * 99 + "2", "a", "b--a", "a--b"]


@given(st.lists(st.sampled_from(NAMES), min_size=6, max_size=6))
@settings(deadline=None)
def test_different_cells_have_different_files(names: list[str]) -> None:
    one, other = (replace(RECORD, label=a, id_set=b, ood_set=c) for a, b, c in (names[:3], names[3:]))
    assert (one.file_name == other.file_name) == (names[:3] == names[3:])


def test_names_with_the_separator_have_different_files() -> None:
    one, other = (replace(RECORD, label=a, id_set=b) for a, b in (("a--b", "c"), ("a", "b--c")))
    assert one.file_name != other.file_name


# records.csv


def test_the_tidy_table_has_raw_values() -> None:
    assert ",".join(CSV_COLUMNS) == (
        "id_set,ood_set,group,seen,detector,settings,recipe,backbone,seed,status,reason,n_id,n_ood,id_accuracy,"
        "tnr_at_tpr95,auroc,detection_accuracy,aupr_in,aupr_out,aupr_in_counts,aupr_out_counts,fpr_at_tpr95,"
        "openood_fpr95,forward_images,seconds,key,notes,"
        + ",".join(f"{name}_{end}" for name in METRICS for end in ("low", "high"))
    )
    text = records_csv([RECORD])
    assert "\r" not in text
    (row,) = csv_rows(text)
    assert tuple(row) == CSV_COLUMNS
    assert json.loads(row["settings"]) == {"temperature": 2.0}
    assert (row["seen"], row["seed"], row["n_id"], row["seconds"]) == ("false", "3", "510", "1.235")
    assert float(row["id_accuracy"]) == 0.1 + 0.2
    for name, value in RECORD.metrics.items():
        assert float(row[name]) == value, "nothing is rounded"
        assert [float(row[f"{name}_{end}"]) for end in ("low", "high")] == RECORD.intervals[name]


def test_the_tidy_table_is_empty_where_values_are_missing() -> None:
    failed = replace(
        RECORD, metrics={}, intervals={}, id_accuracy=None, tpr=None, status="failed", reason='a, "b"\nc', seen=True
    )
    (row,) = csv_rows(records_csv([failed]))
    assert {row[name] for name in (*METRICS, "id_accuracy", "auroc_low", "auroc_high")} == {""}
    assert (row["status"], row["reason"], row["seen"]) == ("failed", 'a, "b"\nc', "true")
    assert records_csv([]) == ",".join(CSV_COLUMNS) + "\n"
