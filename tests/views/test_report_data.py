"""The content of a report: the tables' numbers, seeds, tests, several runs, missing cells, names, equal bytes."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark.comparisons.compare import compare
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.papers.report_lines import published_lines
from oodbench.benchmark.records.record import FAILED, SKIPPED, Record
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.views.names import OwnNames
from oodbench.benchmark.views.report.collect import Lookups, report_data
from oodbench.benchmark.views.report.data import ReportData, Stat, to_json
from oodbench.benchmark.views.report.tables import in_words
from oodbench.benchmark.views.summary import summary_of
from tests.scored_runs import normal_scores, scored_run


def report(folder: Path, *runs: StoredRun, **options: Any) -> ReportData:
    return report_data(runs, folder, **options)


def cell(data: ReportData, label: str, place: int, block: int = 0) -> Any:
    row = next(i for i, row in enumerate(data.rows) if (row.label, row.block) == (label, block))
    return next(one for one in data.cells if (one.row, one.set) == (row, place))


# Numbers


def test_numbers_are_those_of_the_tables(tmp_path: Path) -> None:
    run = scored_run(tmp_path, seeds=(0, 1, 2))
    data = report(tmp_path, run)
    (block,) = summary_of(run).blocks
    assert [(one.name, one.title, one.run, one.groups) for one in data.id_sets] == [
        ("digits", "Digits", "made_up", ["near", "far"])
    ]
    assert [(one.name, one.group, one.images) for one in data.id_sets[0].sets] == [
        ("glyphs", "near", 200), ("uniform", "far", 200)
    ]  # fmt: skip
    assert [row.label for row in data.rows] == [row.label for row in block.rows] == ["msp", "energy", "knn[k=5]"]
    assert [metric.id for metric in data.metrics] == list(METRICS)
    assert len(data.cells) == 3 * 2
    for row in block.rows:
        for place, name in enumerate(("glyphs", "uniform")):
            found = cell(data, row.label, place)
            assert found.status == "ok"
            for metric, expected in row.cells[name].stats.items():
                assert found.stats[metric].mean == round(expected.mean, 6)
                assert found.stats[metric].std == round(expected.std or 0, 6)
                assert found.stats[metric].n == 3
        shown = next(one for one in data.rows if one.label == row.label)
        assert shown.means["near"]["auroc"].mean == round(row.means["near", "auroc"].mean, 6)
        assert shown.worst["auroc"] == [["glyphs", "uniform"].index(row.worst["auroc"][0])]
        assert shown.accuracy == Stat(0.9, 0.0, n=3)


def test_numbers_of_every_seed(tmp_path: Path) -> None:
    run = scored_run(tmp_path, seeds=(4, 1))
    data = report(tmp_path, run)
    assert data.seeds == [1, 4]
    for record in run.records:
        found = cell(data, record.label, ["glyphs", "uniform"].index(record.ood_set))
        assert [one.seed for one in found.by_seed] == [1, 4]
        of_seed = next(one for one in found.by_seed if one.seed == record.seed)
        assert of_seed.values == {name: round(value, 6) for name, value in record.metrics.items()}
        assert found.curve.seed == 1


def test_further_metrics_are_listed_where_a_cell_has_them(tmp_path: Path) -> None:
    def change(record: Record) -> Record:
        return replace(record, extended={"ece": 0.25}) if record.label == "msp" else record

    data = report(tmp_path, scored_run(tmp_path, change=change))
    assert [metric.id for metric in data.metrics if not metric.means] == ["ece"]
    assert cell(data, "msp", 0).stats["ece"].mean == 0.25
    assert "ece" not in cell(data, "energy", 0).stats


# Cells without a number


def test_missing_failed_and_skipped_cells_say_so(tmp_path: Path) -> None:
    def change(record: Record) -> Record | None:
        if record.label == "msp":
            return replace(record, status=FAILED, reason="it diverged", metrics={}, artifacts={})
        if record.label == "energy":
            return replace(record, status=SKIPPED, reason="no <logits>", metrics={}, artifacts={})
        return None if record.ood_set == "uniform" else record

    data = report(tmp_path, scored_run(tmp_path, change=change, seeds=(0, 1)))
    assert (cell(data, "msp", 0).status, cell(data, "msp", 0).reason) == ("failed", "it diverged")
    assert (cell(data, "energy", 1).status, cell(data, "energy", 1).reason) == ("skipped", "no <logits>")
    assert cell(data, "knn[k=5]", 0).status == "ok"
    absent = cell(data, "knn[k=5]", 1)
    assert (absent.status, absent.stats, absent.curve) == ("absent", {}, None)
    (sentence,) = data.runs[0].unfinished
    assert "2 of 12 cells are missing" in sentence


def test_warnings_name_the_metrics_that_they_are_about(tmp_path: Path) -> None:
    def scores(label: str, name: str, seed: int) -> np.ndarray:
        found = normal_scores("", name, seed)
        return -found - 2 if (label, name) == ("msp", "uniform") else found

    def change(record: Record) -> Record:
        return replace(record, notes=("quick look",))

    data = report(tmp_path, scored_run(tmp_path, scores=scores, change=change))
    found = cell(data, "msp", 1)
    (warning,) = (data.texts[place] for place in found.warnings)
    assert warning.startswith("Warning: AUROC under 50%")
    assert found.doubtful == ["auroc"]
    assert [data.texts[place] for place in found.notes] == ["quick look"]
    sound = cell(data, "energy", 0)
    assert (sound.warnings, sound.doubtful, sound.notes) == ([], [], found.notes)


def test_a_cell_with_some_seeds_is_partial(tmp_path: Path) -> None:
    def change(record: Record) -> Record:
        return replace(record, status=FAILED, reason="killed", metrics={}) if record.seed == 1 else record

    found = cell(report(tmp_path, scored_run(tmp_path, seeds=(0, 1), change=change)), "msp", 0)
    assert (found.status, found.reason) == ("partial", "seed 1: killed")
    assert [(one.seed, one.status) for one in found.by_seed] == [(0, "ok"), (1, "failed")]


def test_scores_that_are_not_in_the_store(tmp_path: Path) -> None:
    run = scored_run(tmp_path)
    shutil.rmtree(tmp_path / "cache")
    data = report(tmp_path, run)
    assert data.distributions == []
    assert data.pairs == []
    assert data.mistakes == []
    assert "not in the store" in cell(data, "msp", 0).no_curve
    assert cell(data, "msp", 0).stats["auroc"].mean > 0.5
    assert any("Detectors are not compared on digits against glyphs" in note for note in data.notes)


def test_records_of_older_versions(tmp_path: Path) -> None:
    run = scored_run(tmp_path)
    for path in (run.path / "cells").iterdir():
        content = json.loads(path.read_text(encoding="utf-8"))
        needed = {"schema", "id_set", "ood_set", "group", "outlier_source", "seen", "detector", "settings", "recipe"}
        needed |= {"recipe_settings", "backbone", "seed", "label", "metrics", "n_id", "n_ood"}
        path.write_text(json.dumps({name: content[name] for name in needed}), encoding="utf-8")
    data = report(tmp_path, read_stored_run(run.path))
    assert cell(data, "msp", 0).status == "ok"
    assert cell(data, "msp", 0).no_curve
    assert any("not recorded" in data.texts[place] for place in cell(data, "msp", 0).provenance)


# Tests of pairs


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_pairs_are_those_of_bench_compare(tmp_path: Path, seeds: Sequence[int]) -> None:
    run = scored_run(tmp_path, labels=("a", "bbbbb", "cc", "dddd"), seeds=seeds)
    data = report(tmp_path, run)
    compared = compare(run, tmp_path / "cache")
    assert len(data.pairs) == len(compared.columns) == 2
    for found, column in zip(data.pairs, compared.columns, strict=True):
        assert [data.rows[row].label for row in found.rows] == list(column.labels)
        assert found.seeds == list(column.seeds)
        for i, (a, b) in enumerate(itertools.combinations(range(len(column.labels)), 2)):
            assert found.differences[i] == round(column.estimate.difference[a, b], 6)
            assert found.half_widths[i] == round(column.estimate.half_width[a, b], 6)
            assert found.p[i] == pytest.approx(column.estimate.p[a, b], rel=1e-3)
            assert found.holm[i] == pytest.approx(column.estimate.holm[a, b], rel=1e-3)
        assert len(found.p) == 6
        assert min(found.p) < 0.05 < max(found.p), "the example has differences and ties"


def test_rows_that_do_not_compete_are_named(tmp_path: Path) -> None:
    def change(record: Record) -> Record:
        return replace(record, seen=True) if record.label == "msp" and record.ood_set == "glyphs" else record

    data = report(tmp_path, scored_run(tmp_path, change=change))
    assert [data.rows[row].label for row in data.pairs[0].rows] == ["energy", "knn[k=5]"]
    assert data.pairs[0].left_out == [["msp", "was trained on outliers of this distribution"]]


# Several runs


def test_runs_are_shown_side_by_side(tmp_path: Path) -> None:
    one = scored_run(tmp_path, "one", labels=("msp", "energy"))
    other = scored_run(tmp_path, "other", labels=("vim",), info=1)
    data = report(tmp_path, one, other)
    assert [run.name for run in data.runs] == ["one", "other"]
    assert [(block.run, block.name) for block in data.id_sets] == [("", "digits")]
    assert {(row.detector, row.run) for row in data.rows} == {("msp", "one"), ("energy", "one"), ("vim", "other")}
    assert all(found.curve for found in data.cells), "each from the store of its own run"
    assert [len(found.rows) for found in data.pairs] == [3, 3]
    assert data.title == "one + other"


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one = scored_run(tmp_path / "a", "digits", labels=("msp",))
    other = scored_run(tmp_path / "b", "digits", labels=("vim",))
    data = report(tmp_path, one, other)
    assert [run.name for run in data.runs] == ["a/digits", "b/digits"]
    assert {(row.detector, row.run) for row in data.rows} == {("msp", "a/digits"), ("vim", "b/digits")}
    assert data.title == "a/digits + b/digits"
    assert all(found.curve for found in data.cells)


def test_what_only_one_run_has_is_shown_as_its_own(tmp_path: Path) -> None:
    one = scored_run(tmp_path, "one", labels=("msp",))
    other = scored_run(tmp_path, "other", labels=("vim",), sets={"glyphs": "near", "greek": "near"})
    data = report(tmp_path, one, other)
    assert [(block.run, [ood.name for ood in block.sets]) for block in data.id_sets] == [
        ("", ["glyphs"]), ("one", ["glyphs", "uniform"]), ("other", ["glyphs", "greek"])
    ]  # fmt: skip
    assert any("greek" in note and "left out" in note for note in data.notes)
    assert len({found.curve.id for found in data.cells if found.curve}) == 2, "blocks share distributions"


def test_runs_without_a_common_pair_are_shown_one_after_the_other(tmp_path: Path) -> None:
    one = scored_run(tmp_path, "one", labels=("msp",))
    other = scored_run(tmp_path, "other", labels=("msp",), id_set="greek", sets={"digits": "near"})
    data = report(tmp_path, one, other)
    assert [(block.run, block.name) for block in data.id_sets] == [("one", "digits"), ("other", "greek")]
    assert any("no pair of sets with the same images" in note for note in data.notes)


def test_a_report_needs_runs_and_each_once(tmp_path: Path) -> None:
    run = scored_run(tmp_path)
    with pytest.raises(UserError, match="needs a run"):
        report(tmp_path)
    with pytest.raises(UserError, match="each run once"):
        report(tmp_path, run, run)


# Published numbers


def test_published_numbers_are_at_their_cells(tmp_path: Path) -> None:
    run = scored_run(tmp_path, labels=("msp",), id_set="cifar10", sets={"svhn": "far"}, suite={"name": "lee2018"})
    data = report(tmp_path, run, lookups=Lookups(published=published_lines))
    assert {one.row for one in data.published} == {0}
    of_cell = [one for one in data.published if one.set == 0 and one.metric == "auroc"]
    assert of_cell
    for one in of_cell:
        assert one.ours == round(100 * run.records[0].metrics["auroc"], 2)
        assert one.difference == pytest.approx(100 * run.records[0].metrics["auroc"] - float(one.published), abs=0.006)
        assert one.reasons, "the run follows no paper's protocol"


def test_published_means_and_accuracies_have_titles(tmp_path: Path) -> None:
    sets = {"cifar100": "near", "tinyimagenet": "near"}
    run = scored_run(tmp_path, labels=("msp",), id_set="cifar10", sets=sets, suite={"name": "openood-cifar10"})
    data = report(tmp_path, run, lookups=Lookups(published=published_lines))
    shown = {(one.metric_title, one.group, one.set) for one in data.published}
    assert {("ID acc", "", None), ("AUROC", "near", None), ("FPR95 (OOD+)", "near", None)} <= shown
    (accuracy,) = {one.ours for one in data.published if one.metric == "id_accuracy"}
    assert accuracy == 90.0


def test_sets_that_no_paper_has_give_no_published_number(tmp_path: Path) -> None:
    assert report(tmp_path, scored_run(tmp_path), lookups=Lookups(published=published_lines)).published == []


# Text


HOSTILE = ("<script>alert(1)</script>", '"; drop', "=cmd()", "</script><b>", "caf\u00e9\u2028\u2029", "\x1b[31mred")


def test_hostile_names_are_text(tmp_path: Path) -> None:
    def change(record: Record) -> Record:
        return replace(record, notes=HOSTILE, backbone=HOSTILE[0])

    sets = {"</script>": "near", "=1+1": "far"}
    run = scored_run(tmp_path, HOSTILE[0], labels=HOSTILE, sets=sets, notes=[*HOSTILE], change=change)
    data = report(tmp_path, run, command="bench report '</script>'", title="\x1b[31mred")
    assert "\x1b" not in data.title
    encoded = to_json(data)
    assert b"<" not in encoded
    found = json.loads(encoded)
    assert found["runs"][0]["name"] == HOSTILE[0]
    assert [row["label"] for row in found["rows"]] == list(HOSTILE)
    assert [one["name"] for one in found["id_sets"][0]["sets"]] == list(sets)
    assert found["made"]["command"] == "bench report '</script>'"
    shown = [row["name"] for row in found["rows"]]
    assert shown[0] == HOSTILE[0]
    assert "\x1b" not in "".join([*shown, *found["texts"], *found["runs"][0]["notes"]])


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    made = []
    for number, written in enumerate(("2026-01-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00")):

        def change(record: Record, at: str = written, number: int = number) -> Record:
            provenance = {"made": {"written": at, "version": "0.1.0"}, "data": [], "artifacts": []}
            return replace(record, seconds=number + 0.5, peak_memory=10**9 + number, provenance=provenance)

        folder = tmp_path / written[:4]
        made.append(to_json(report(folder, scored_run(folder, change=change, written=written))))
    assert made[0] == made[1]


@pytest.mark.slow
def test_a_report_needs_no_torch(tmp_path: Path) -> None:
    scored_run(tmp_path)
    code = """
import sys
from pathlib import Path
from oodbench.benchmark.papers.report_lines import published_lines
from oodbench.benchmark.records.run import read_stored_run
from oodbench.benchmark.views.report.collect import Lookups, report_data
folder = Path(sys.argv[1])
data = report_data([read_stored_run(folder / "runs" / "made_up")], folder, Lookups(published=published_lines))
assert data.cells and data.pairs and data.mistakes
print([name for name in ("torch", "matplotlib", "pandas", "sklearn") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_scores_are_read_as_they_are_stored(tmp_path: Path) -> None:
    """Cells of one row share the ID set's distribution, and each has its own of the OOD set."""
    data = report(tmp_path, scored_run(tmp_path))
    assert len(data.distributions) == 3 * (1 + 2)
    assert len({found.curve.id for found in data.cells if found.curve}) == 3
    assert np.all(np.diff(data.levels) > 0)


# Names and costs


def test_rows_have_names_citations_and_costs(tmp_path: Path) -> None:
    costs = {"vim": {"kind": "posthoc", "passes": [0, 0], "networks": 1}, "msp": {"passes": [2, 3], "networks": 4}}
    run = scored_run(tmp_path, labels=("vim", "msp", "mine_50%"), sets={"glyphs": "near"}, costs=costs)
    own = OwnNames(rows={"mine_50%": "Ours"}, sets={"glyphs": "Letters"})
    data = report(tmp_path, run, names=own)
    vim, msp, mine = data.rows
    assert (vim.name, vim.label, vim.cite, vim.kind) == ("ViM", "vim", "wang2022vim", "post-hoc")
    assert vim.paper == "ViM: Out-Of-Distribution with Virtual-logit Matching (2022)"
    assert (vim.passes, vim.networks, msp.passes, msp.networks) == ("1", "1", "1+2..3", "4")
    assert (mine.name, mine.latex, mine.passes, mine.cite) == ("Ours", "Ours", "", "")
    assert report(tmp_path, run).rows[2].latex == "mine\\_50\\%"
    assert data.id_sets[0].sets[0].title == "Letters"
    entries = dict(data.references)
    assert entries["wang2022vim"].startswith("@")


def test_a_paper_in_words_has_no_markup() -> None:
    entry = "@inproceedings{a,\n  title     = {{DICE}: Leveraging\n    Sparsification},\n  year      = {2022}\n}"
    assert in_words(entry) == "DICE: Leveraging Sparsification (2022)"
    assert in_words("@misc{b,\n  note = {none}\n}") == ""
