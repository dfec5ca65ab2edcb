"""Several runs side by side: which pairs of sets they share, how rows are labelled, and paired tests across runs."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark import read_run
from oodbench.benchmark.comparisons.compare import Comparison, compare
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.beside import network_of, runs_beside, store_of
from oodbench.benchmark.records.best import read_best
from oodbench.benchmark.records.paths import cache_of
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.store.user_path import telling_ends
from oodbench.benchmark.views.tables.paper.write import built
from oodbench.benchmark.views.tables.text import text_table
from tests.support import bench, draw_no_plots, run_suite, write_suite

MATRIX = """
[[id]]
set = "digits[0-1]"
ood = [{ set = "uniform", group = "far" }, { set = "digits[2-3]", group = "near" }]
[[id]]
set = "digits[4-5]"
ood = [{ set = "uniform" }]
"""
WIDE = "small_cnn[hidden=16,width=8]"
ONE = "digits[0-1]"
Run = Callable[..., StoredRun]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with runs that differ in one thing each; 'both' has the cells of 'small' and 'wide' in one table."""
    run: Run = partial(run_suite, write_suite(tmp_path_factory.mktemp("beside"), MATRIX))
    small = run("msp,energy", name="small")
    run("msp,knn", name="wide", backbone=WIDE, id_sets=ONE)
    run("msp", name="short", limit_train=40)
    run("msp,knn", name="same")
    run("msp", name="fewer images", limit_test=30, id_sets=ONE)
    run("msp,energy", name="both", id_sets=ONE)
    run("msp,knn", name="both", id_sets=ONE, backbone=WIDE, add=True)
    return small.path.parents[1]


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    """A copy of the runs to change; artifacts are links."""
    shutil.copytree(made / "runs", tmp_path / "runs")
    (tmp_path / "cache").symlink_to(made / "cache")
    return tmp_path


def beside(results: Path, *names: str) -> StoredRun:
    known = {read_stored_run(path).name: path for path in (results / "runs").iterdir()}
    return runs_beside([known[name] for name in names], results)


def labels(run: StoredRun) -> list[str]:
    return list(dict.fromkeys(record.label for record in run.records))


def pairs(run: StoredRun) -> set[tuple[str, str]]:
    return {(record.id_set, record.ood_set) for record in run.records}


def edited(results: Path, name: str, change: Callable[[dict[str, Any]], None], of: str = "run.json") -> None:
    """Change `run.json`, or every record whose file name begins with `of`."""
    folder = results / "runs" / name
    paths = [folder / of] if of == "run.json" else list((folder / "cells").glob(f"{of}*"))
    assert paths
    for path in paths:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


# Labels


def test_the_backbone_tells_rows_apart(made: Path) -> None:
    run = beside(made, "small", "wide")
    small = "small_cnn[hidden=4,width=2]"
    assert labels(run) == [f"msp ({small})", f"energy ({small})", f"msp ({WIDE})", f"knn ({WIDE})"]


def test_a_hint_names_the_command_as_it_is_typed(made: Path) -> None:
    assert beside(made, "small", "wide").typed == "small wide"
    result = bench("compare", "small", "wide", "--detectors", "msq,knn", "--results", made)
    assert result.exit_code == 2
    assert "'bench table small wide' shows all" in result.output


def test_tables_for_papers_know_names_and_costs_of_all_runs(made: Path) -> None:
    (table,) = built(beside(made, "small", "wide"), {"columns": "auroc,passes,networks", "id_sets": ONE, "cite": True})
    small = "small_cnn[hidden=4,width=2]"
    assert [row.title for row in table.rows] == [
        f"MSP ({small})", f"Energy ({small})", f"MSP ({WIDE})", f"KNN ({WIDE})",
    ]  # fmt: skip
    assert [row.cite for row in table.rows][1::2] == [("liu2020energy",), ("sun2022knn",)]
    assert [[cell.mean for cell in cells[-2:]] for cells in table.cells] == [["1", "1"]] * 4


def test_options_tell_rows_apart_also_of_detectors_that_one_run_has(made: Path) -> None:
    assert labels(beside(made, "small", "short")) == ["msp", "energy", "msp (limit_train=40)"]
    assert labels(beside(made, "short", "same")) == ["msp (limit_train=40)", "msp", "knn"]


def test_cells_with_the_same_numbers_are_shown_once_and_others_name_their_run(made: Path) -> None:
    run = beside(made, "small", "same")
    assert labels(run) == ["msp", "energy (small)", "knn (same)"]
    assert "3 cells that several runs have, with the same numbers, are shown once." in run.info["notes"]
    assert len(run.records) == 9


def test_unlike_numbers_of_one_cell_are_rows_of_their_runs(results: Path) -> None:
    """As of another machine, whose arithmetic rounds otherwise: all of the label, although one cell alone differs."""
    edited(
        results, "same", lambda r: r["metrics"].update(auroc=r["metrics"]["auroc"] / 2), of="msp--digits_0-1*--uniform"
    )
    run = beside(results, "small", "same")
    assert labels(run) == ["msp (small)", "energy (small)", "msp (same)", "knn (same)"]
    of_same = {(r.id_set, r.ood_set) for r in run.records if r.label == "msp (same)"}
    assert of_same == {(ONE, "uniform"), (ONE, "digits[2-3]"), ("digits[4-5]", "uniform")}


def test_a_result_takes_the_place_of_a_failure(results: Path) -> None:
    edited(results, "small", lambda r: r.update(status="failed", reason="no luck", metrics={}), of="msp--")
    run = beside(results, "small", "same")
    assert labels(run) == ["msp", "energy (small)", "knn (same)"]
    assert {r.status for r in run.records} == {"ok"}


# Pairs of sets


def test_pairs_that_only_some_runs_have_are_left_out_with_the_reason(made: Path) -> None:
    run = beside(made, "small", "wide")
    assert pairs(run) == {(ONE, "uniform"), (ONE, "digits[2-3]")}
    assert "digits[4-5] against uniform is left out (only in small)." in run.info["notes"]


def test_other_images_are_left_out_and_refused_where_nothing_is_left(results: Path) -> None:
    with pytest.raises(
        UserError, match=r"no pair of sets with the same images.*small: 103 images, fewer images: 30 images"
    ):
        beside(results, "small", "fewer images")

    def other(info: dict[str, Any]) -> None:
        [pair] = (p for p in info["pairs"] if p["ood_set"] == "digits[2-3]")
        pair["scored"]["ood"]["checksum"] = "f" * 64

    edited(results, "wide", other)
    edited(results, "wide", lambda r: r["origin"]["images"]["ood"].update(checksum="f" * 64), of="*--digits_2-3--")
    run = beside(results, "small", "wide")
    assert pairs(run) == {(ONE, "uniform")}
    [note] = (note for note in run.info["notes"] if note.startswith(f"{ONE} against digits[2-3]"))
    assert "the OOD images differ; small: images " in note
    assert "wide: images ffffff" in note


def test_images_agree_by_content_whatever_networks_got_of_them_and_the_set_is_called(results: Path) -> None:
    """Two pretrained networks get the same pictures at other sizes: checksums differ, what is stored does not."""

    def of_pair(name: str, info: dict[str, Any]) -> None:
        for pair in info["pairs"]:
            if pair["ood_set"] == "uniform":
                pair["content"] = {"ood": "the same"}
                pair["scored"]["ood"]["checksum"] = name
                pair["ood_set"] = name

    def of_record(name: str, record: dict[str, Any]) -> None:
        record["origin"]["images"]["ood"]["checksum"] = name
        record["ood_set"] = name

    for name in ("small", "wide"):
        edited(results, name, partial(of_pair, name))
        edited(results, name, partial(of_record, name), of="*--uniform")
    run = beside(results, "small", "wide")
    assert pairs(run) == {(ONE, "small"), (ONE, "digits[2-3]")}
    assert len({r.label for r in run.records if r.ood_set == "small"}) == 4


def test_groups_that_differ_are_those_of_the_first_run_with_a_warning(results: Path) -> None:
    def near(info: dict[str, Any]) -> None:
        for pair in info["pairs"]:
            pair["group"] = "near"

    edited(results, "wide", near)
    run = beside(results, "small", "wide")
    assert {r.group for r in run.records if r.ood_set == "uniform"} == {"far"}
    assert f"Warning: {ONE} against uniform is far in small and here, near in wide." in run.info["notes"]


def test_notes_are_kept_with_the_run_that_they_are_of(results: Path) -> None:
    edited(results, "small", lambda info: info["notes"].extend(["Both say this.", "Warning: one says this."]))
    edited(results, "same", lambda info: info["notes"].append("Both say this."))
    text = " ".join(text_table(beside(results, "small", "same"), 2000).split())
    assert "Note: Both say this. " in text
    assert "Warning: one says this (run small)." in text


def test_missing_cells_are_said_of_each_run(results: Path) -> None:
    next((results / "runs" / "wide" / "cells").glob("knn--*")).unlink()
    run = beside(results, "small", "wide")
    assert "Run 'wide' is unfinished: 1 of 4 cells is missing. Continue with 'bench run " in text_table(run, 2000)
    assert sum(run.missing.values()) == 1


# Paired tests


def estimates(found: Comparison) -> dict[tuple[str, str], Any]:
    return {(column.id_set, column.ood_set): column.estimate for column in found.columns}


def test_paired_tests_across_runs_are_those_of_the_same_cells_in_one_run(made: Path) -> None:
    cache = made / "cache"
    across = compare(beside(made, "small", "wide"), cache)
    within = compare(read_stored_run(made / "runs" / "both"), cache)
    assert across.labels == within.labels
    for place, estimate in estimates(within).items():
        np.testing.assert_array_equal(estimates(across)[place].p, estimate.p)
        np.testing.assert_array_equal(estimates(across)[place].difference, estimate.difference)
        np.testing.assert_array_equal(estimates(across)[place].by_seeds, estimate.by_seeds)


def test_a_shared_name_stands_for_the_rows_of_all_runs(made: Path) -> None:
    run = beside(made, "small", "wide")
    assert len(compare(run, made / "cache", ["msp"]).labels) == 2
    with pytest.raises(UserError, match="Unknown detector of run 'small \\+ wide' 'mps'"):
        compare(run, made / "cache", ["mps"])


def test_runs_of_other_results_folders_bring_their_stores_and_are_told_apart_by_them(
    made: Path, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere"
    shutil.copytree(made / "runs" / "small", other / "runs" / "small")
    shutil.copytree(made / "cache", other / "cache")
    edited(other, "small", lambda r: r["metrics"].update(auroc=0.5), of="msp--")

    def trained_elsewhere(record: dict[str, Any]) -> None:
        for artifact in record["provenance"]["artifacts"]:
            artifact["sha256"] = "0" * 64

    edited(other, "small", trained_elsewhere, of="msp--")
    folders = [made / "runs" / "small", other / "runs" / "small"]
    run = runs_beside(folders, made)
    ends = telling_ends([made / "small", other / "small"])
    assert labels(run) == [f"msp ({ends[0]})", "energy", f"msp ({ends[1]})"]
    one, two = (next(r for r in run.records if r.label == f"msp ({end})") for end in ends)
    assert store_of(one, tmp_path) == made / "cache"
    assert store_of(two, tmp_path) == other / "cache"
    assert network_of(one) != network_of(two)  # one file name, other bytes
    assert network_of(one) == network_of(next(r for r in run.records if r.label == "energy" and r.id_set == one.id_set))
    for path in (other / "cache" / "scores").glob("*.npy"):
        path.unlink()
    with pytest.raises(UserError, match=r"not in the cache '.*elsewhere"):
        compare(run, made / "cache")


# Commands and Python


def test_commands_on_several_runs(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_no_plots(monkeypatch)
    where = ("--results", results)
    done = bench("compare", "small", "wide", "--detectors", "msp", *where)
    assert done.exit_code == 0, done.output
    folder = results / "compare" / "small+wide"
    assert f"Files: {folder}" in " ".join(done.stdout.split())
    assert "left out (only in small)" in (folder / "compare.md").read_text()
    assert not (results / "runs" / "small" / "compare").exists()
    before = read_best(beside(results, "small", "wide"))
    assert set(before) == {(ONE, "uniform"), (ONE, "digits[2-3]")}
    for form, sign in (("text", "msp ("), ("md", "| `msp ("), ("tex", "\\begin{document}"), ("csv", "id_set,detector")):
        shown = bench("table", "small", "wide", "--format", form, *where)
        assert shown.exit_code == 0, shown.output
        assert sign in shown.stdout
    assert "°" in (folder / "table.md").read_text()
    rows = list(csv.DictReader(io.StringIO((folder / "records.csv").read_text())))
    assert {row["run"] for row in rows} == {"small", "wide"}
    assert bench("table", "small", "wide", "--against", "lee2018", *where).exit_code == 0
    refused = bench("table", "small", "small", *where)
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "Name two runs or more, each once" in refused.stderr
    assert "no extended metrics" in bench("table", "small", "wide", "--metrics", "extended", *where).stderr


def test_runs_beside_each_other_in_python(results: Path) -> None:
    small, wide, short = (read_run(name, results) for name in ("small", "wide", "short"))
    run = small.beside(wide)
    assert len(run.table()) == 4
    assert set(run.to_frame()["run"]) == {"small", "wide"}
    assert "<h3>small + wide</h3>" in run._repr_html_()
    assert repr(run).startswith("<Run 'small + wide': 8 ok")
    three = run.beside(short)
    assert [part.name for part in three.parts] == ["small", "wide", "short"]
    assert not (results / "compare").exists()
    assert cache_of(small.path, results) == results / "cache"


def test_the_folder_of_several_runs(made: Path, tmp_path: Path) -> None:
    folders = [made / "runs" / "small", made / "runs" / "wide"]
    assert runs_beside(folders, made).path == made / "compare" / "small+wide"
    shutil.copytree(folders[1], tmp_path / "wide")
    assert runs_beside([folders[0], tmp_path / "wide"], made).path.name.startswith("small+wide-")


def test_the_shortest_ends_of_paths_that_tell_them_apart() -> None:
    paths = [Path(text) for text in ("/a/x/photos", "/b/x/photos", "/b/y/birds", "photos")]
    assert telling_ends(paths) == ["a/x/photos", "b/x/photos", "birds", "photos"]
    assert telling_ends([Path("/a/x"), Path("/a/x")]) == ["x", "x"]
    assert telling_ends([Path("/x"), Path("/a/x")]) == ["/x", "a/x"]
