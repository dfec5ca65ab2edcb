"""--near and --far: OOD sets with their group, named on the command line; sets without a group have a mean, too."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.run import public
from oodbench.benchmark.views.tables.files import summarise
from oodbench.benchmark.views.tables.text import text_table
from tests.support import bench, csv_rows, prepare_suite, run_suite, write_suite

MATRIX = """
[[id]]
set = "digits[0-3]"
ood = [{ set = "greek", group = "near" }, { set = "uniform", group = "far" }]
"""

SMALL: dict[str, Any] = {"backbone": "small_cnn[hidden=4,width=2]", "epochs": 1, "limit_train": 100}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_suite(tmp_path, MATRIX)


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, {"greek": "near", "uniform": "far"}),
        ({"near": "uniform"}, {"uniform": "near"}),
        ({"far": "gaussian,uniform"}, {"gaussian": "far", "uniform": "far"}),
        ({"near": ["glyphs"], "far": ["gaussian"]}, {"glyphs": "near", "gaussian": "far"}),
        ({"ood_sets": "greek,glyphs", "far": "gaussian"}, {"greek": "near", "glyphs": "", "gaussian": "far"}),
        ({"ood_sets": "all", "near": "glyphs"}, {"greek": "near", "uniform": "far", "glyphs": "near"}),
        ({"ood_sets": "all", "far": "greek"}, {"greek": "far", "uniform": "far"}),
    ],
)
def test_near_and_far_give_the_group_and_replace_the_suites_sets_unless_ood_names_them(
    suite: Path, options: dict[str, str], expected: dict[str, str]
) -> None:
    plan = prepare_suite(suite, **options).plan
    assert {pair.ood.set: pair.group for pair in plan.pairs} == expected
    assert {cell.record.ood_set: cell.record.group for cell in plan.cells} == expected


def test_a_set_in_both_is_refused(suite: Path) -> None:
    with pytest.raises(UserError, match=r"'greek' is in both --near and --far\. Leave it in one of them"):
        prepare_suite(suite, near="greek,glyphs", far="greek")


def test_the_command_line_takes_them(suite: Path, tmp_path: Path) -> None:
    command = ["run", "--suite", suite, "--detectors", "msp", "--results", tmp_path / "results", "--dry-run"]
    done = bench(*command, "--near", "glyphs", "--far", "gaussian")
    assert done.exit_code == 0, done.output
    assert "glyphs" in done.output
    assert "gaussian" in done.output
    assert "greek" not in done.output


@pytest.mark.slow
def test_another_group_is_written_into_finished_cells(suite: Path) -> None:
    before = run_suite(suite, near="greek", **SMALL)
    after = run_suite(suite, far="greek", **SMALL)
    assert [[record.group for record in run.records] for run in (before, after)] == [["near"], ["far"]]
    assert before.records[0].metrics == after.records[0].metrics
    assert before.records[0].key == after.records[0].key
    assert not prepare_suite(suite, far="greek", **SMALL).work.cells


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    """One near set, one far set, and one without a group."""
    suite = write_suite(tmp_path_factory.mktemp("mixed"), MATRIX)
    return run_suite(suite, "msp,energy", ood_sets="all,glyphs", near="gaussian", **SMALL)


def test_all_sets_have_a_mean_where_one_has_no_group(mixed: StoredRun) -> None:
    aurocs = {record.ood_set: record.metrics["auroc"] for record in mixed.records if record.label == "msp"}
    assert len(aurocs) == 4
    frame = summarise(mixed).query("label == 'msp' and metric == 'auroc'").set_index("scope")["mean"]
    assert frame["all"] == pytest.approx(fmean(aurocs.values()), abs=1e-12)
    assert frame["near"] == pytest.approx((aurocs["greek"] + aurocs["gaussian"]) / 2, abs=1e-12)
    assert frame["far"] == aurocs["uniform"]
    (row, _) = csv_rows((mixed.path / "table.csv").read_text())
    assert float(row["all_mean/auroc/mean"]) == pytest.approx(frame["all"], abs=1e-6)
    shown = f"{100 * frame['all']:.1f}"
    for text in (text_table(mixed), *((mixed.path / name).read_text() for name in ("table.md", "table.tex"))):
        assert "all mean" in text
        assert shown in text
    table = public(mixed).table()
    assert list(dict.fromkeys(table.columns.get_level_values(0)))[-3:] == ["near mean", "far mean", "all mean"]
    assert table["all mean"]["auroc"].iloc[0] == pytest.approx(100 * frame["all"])


def test_sets_that_all_have_a_group_have_no_other_mean(suite: Path) -> None:
    run = run_suite(suite, **SMALL)
    assert "all mean" not in text_table(run)
    assert "all_mean" not in (run.path / "table.csv").read_text()


def test_one_set_without_a_group_is_its_own_mean(suite: Path) -> None:
    assert "all mean" not in text_table(run_suite(suite, ood_sets="glyphs", **SMALL))


def test_the_groups_are_in_run_json_for_its_repetition(mixed: StoredRun) -> None:
    (command,) = json.loads((mixed.path / "run.json").read_text())["commands"]
    assert (command["ood_sets"], command["near"], command["far"]) == (["all", "glyphs"], ["gaussian"], [])
