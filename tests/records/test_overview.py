"""The list of runs: what it says of each, and that nothing in a folder of runs stops it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from oodbench.benchmark.records.overview import BROKEN, COMPLETE, RUNNING, UNFINISHED, RunOverview, overviews
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.records.running import marked_running, running
from oodbench.benchmark.store.locks import Locks
from oodbench.benchmark.store.sizes import bytes_in, in_bytes
from tests.support import bench, run_suite, write_suite

MATRIX = '[[id]]\nset = "digits[0-1]"\nood = [{ set = "uniform" }]'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    """A run of two cells."""
    run = partial(run_suite, write_suite(tmp_path_factory.mktemp("list"), MATRIX))
    return run("msp,energy", name="first run")


@pytest.fixture
def results(made: StoredRun, tmp_path: Path) -> Path:
    shutil.copytree(made.path.parents[1] / "runs", tmp_path / "runs")
    return tmp_path


def only(results: Path) -> RunOverview:
    [found] = overviews(results)
    return found


def test_a_run_is_counted_by_the_status_of_its_cells(results: Path, made: StoredRun) -> None:
    found = only(results)
    assert (found.ok, found.skipped, found.failed, found.missing) == (2, 0, 0, 0)
    assert (found.name, found.folder) == ("first run", made.path.name)
    assert (found.suite, found.id_sets, found.detectors, found.state) == ("tiny", ("digits[0-1]",), 2, COMPLETE)
    assert found.bytes == sum(path.stat().st_size for path in (results / "runs").rglob("*") if path.is_file())
    text = bench("list", "runs", "--results", results).stdout
    assert f"first run ({made.path.name})" in text
    assert " complete\n1 run; store " in text


def test_records_are_read_where_the_table_is_older_or_of_other_cells(results: Path) -> None:
    [folder] = (results / "runs").iterdir()
    path = next((folder / "cells").glob("msp--*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "failed"}))
    later = (folder / "records.csv").stat().st_mtime + 10
    os.utime(path, (later, later))
    assert (only(results).ok, only(results).failed) == (1, 1)
    path.write_text(path.read_text().replace('"failed"', '"skipped"'))
    os.utime(path, (later, later))
    assert (only(results).ok, only(results).failed, only(results).skipped) == (1, 0, 1)
    path.unlink()
    found = only(results)
    assert (found.ok, found.failed, found.missing, found.state) == (1, 0, 1, UNFINISHED)
    (folder / "records.csv").unlink()
    assert only(results).ok == 1


def test_broken_folders_are_listed_with_the_reason_and_stop_nothing(results: Path) -> None:
    runs = results / "runs"
    [folder] = runs.iterdir()
    for name in ("no json", "not json", "newer", "of another kind", "bad record"):
        shutil.copytree(folder, runs / name)
    (runs / "no json" / "run.json").unlink()
    (runs / "not json" / "run.json").write_text("{")
    (runs / "newer" / "run.json").write_text('{"schema": 99}')
    (runs / "of another kind" / "run.json").write_text('{"schema": 1, "cells": 3}')
    next((runs / "bad record" / "cells").iterdir()).write_text("[")
    (runs / "bad record" / "records.csv").unlink()
    (runs / "a file").write_text("")
    found = {run.folder: run for run in overviews(results)}
    assert {name for name, run in found.items() if run.state == BROKEN} == set(found) - {folder.name}
    assert len(found) == 6
    text = bench("list", "runs", "--results", results).stdout
    for reason in ("no run.json", "cannot be read as JSON", "newer than 1", "'cells' is 3", "as a cell record"):
        assert reason in text
    assert "6 runs; store" in text


def test_the_last_run_comes_first(results: Path) -> None:
    [folder] = (results / "runs").iterdir()
    for name, written in (("a", "2001-01-01T00:00:00+00:00"), ("b", "2031-01-01T00:00:00+01:00"), ("c", "2001-01-02")):
        shutil.copytree(folder, results / "runs" / name)
        info = json.loads((folder / "run.json").read_text())
        (results / "runs" / name / "run.json").write_text(json.dumps({**info, "name": name, "written": written}))
    assert [run.name for run in overviews(results)] == ["b", "first run", "c", "a"]


def test_a_run_that_a_process_works_on_is_running(results: Path) -> None:
    [folder] = (results / "runs").iterdir()
    locks = Locks(results / "cache")
    with marked_running(locks, folder), marked_running(locks, folder):
        assert running(results / "cache") == {folder.name}
        assert only(results).state == RUNNING
    assert only(results).state == COMPLETE
    left = results / "cache" / "locks" / f"running-{folder.name}--host-1-0.lock"
    left.write_text("")  # of a process that was killed
    assert only(results).state == COMPLETE
    assert not left.exists()


def test_a_run_marks_itself_while_it_runs(tmp_path: Path) -> None:
    seen = []

    class Watch:
        def start(self, jobs: object) -> None: ...
        def tick(self, *_: object) -> None: ...
        def finish(self, *_: object) -> None:
            seen.append(running(tmp_path / "results" / "cache"))

    run = run_suite(write_suite(tmp_path, MATRIX), progress=Watch())
    assert {frozenset(names) for names in seen} == {frozenset({run.path.name})}
    assert running(tmp_path / "results" / "cache") == set()
    assert read_stored_run(run.path).missing == {}


def test_the_list_needs_neither_torch_nor_pandas(results: Path) -> None:
    code = (
        "import sys; from oodbench.benchmark.cli.main import main\n"
        f"main(['list', 'runs', '--results', {str(results)!r}], standalone_mode=False)\n"
        "print(sorted({'torch', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_sizes(tmp_path: Path) -> None:
    (tmp_path / "a" / "cache").mkdir(parents=True)
    (tmp_path / "a" / "cache" / "x").write_bytes(b"12345")
    (tmp_path / "y").write_bytes(b"123")
    assert bytes_in(tmp_path) == 8
    assert bytes_in(tmp_path, without=("a",)) == 3
    assert bytes_in(tmp_path / "none") == 0
    assert [in_bytes(count) for count in (0, 1_300_000, 820_000_000, 2_400_000_000)] == [
        "0 MB",
        "1.3 MB",
        "820 MB",
        "2.4 GB",
    ]
