"""The mean over ID sets of one class: a table of its own in every format, with the numbers of the ID sets' records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.over_id_sets import over_id_sets
from oodbench.benchmark.views.report.collect import report_data
from oodbench.benchmark.views.summary import summary_of
from oodbench.benchmark.views.tables.files import table_csv
from oodbench.benchmark.views.tables.html import table_html
from oodbench.benchmark.views.tables.latex import table_latex
from oodbench.benchmark.views.tables.markdown import table_markdown
from oodbench.benchmark.views.tables.text import text_table
from tests.support import csv_rows

ROWS = ("alpha", "beta")
CLASSES = (0, 3, 7)
SEEDS = (0, 1)
MEAN = "Mean of 3 ID sets"


def value(row: str, k: int, seed: int, metric: str = "auroc") -> float:
    return 0.5 + 0.03 * k + 0.02 * seed * (k + 1) + 0.1 * ROWS.index(row) + 0.001 * METRICS.index(metric)


def record(row: str, k: int, seed: int, *, data: str = "things", source: bool = True) -> Record:
    return Record(
        id_set=f"{data}[{k}]",
        ood_set=f"{data} without {k}",
        group="",
        outlier_source=source,
        detector=row,
        label=row,
        settings={},
        recipe="plain",
        recipe_settings={},
        backbone="net",
        seed=seed,
        seen=row == "beta",
        status="ok",
        metrics={metric: value(row, k, seed, metric) for metric in METRICS},
    )


def records(**options: Any) -> list[Record]:
    return [record(row, k, seed, **options) for k in CLASSES for row in ROWS for seed in SEEDS]


def run_of(found: list[Record]) -> StoredRun:
    return StoredRun(Path("nowhere"), {"name": "toy", "seeds": list(SEEDS)}, found)


def by_seed(row: str, metric: str = "auroc") -> list[float]:
    return [fmean(value(row, k, seed, metric) for k in CLASSES) for seed in SEEDS]


@pytest.mark.parametrize("source", [True, False])
def test_every_metric_is_averaged_seed_by_seed(source: bool) -> None:
    block = over_id_sets(summary_of(run_of(records(source=source))))
    assert block is not None
    assert (block.id_set, block.over, [row.label for row in block.rows]) == (MEAN, 3, [*ROWS])
    for row in block.rows:
        (cell,) = row.cells.values()
        assert (cell.status, cell.seen) == ("ok", row.label == "beta")
        for metric in METRICS:
            means = by_seed(row.label, metric)
            stat = cell.stats[metric]
            assert [stat.mean, stat.std, stat.n] == pytest.approx([fmean(means), stdev(means), 2])


def test_every_format_has_it_with_the_same_numbers(tmp_path: Path) -> None:
    run = run_of(records())
    percents = {row: f"{100 * fmean(by_seed(row)):.1f} ± {100 * stdev(by_seed(row)):.1f}" for row in ROWS}
    texts = {
        "text": text_table(run, 160),
        "markdown": table_markdown(run).replace("\\", ""),
        "html": table_html(run),
        "latex": table_latex(run).replace(r"$\pm$", "±"),
    }
    for name, text in texts.items():
        start = text.index(MEAN)
        assert f"ID set {MEAN}" not in text, name
        assert all(percents[row] in text[start:] for row in ROWS), name
        assert "things[0], things[3], things[7], each against its OOD set" in text.replace("{[}", "["), name
    found = {row["label"]: row for row in csv_rows(table_csv(run)) if row["id_set"] == MEAN}
    for row in ROWS:
        assert found[row]["other classes/auroc/mean"] == f"{fmean(by_seed(row)):.6f}"
        assert found[row]["other classes/auroc/std"] == f"{stdev(by_seed(row)):.6f}"
        assert found[row]["other classes/seen"] == str(row == "beta").lower()
    data = report_data([run], tmp_path, pictures=0)
    assert [block.name for block in data.id_sets] == ["things[0]", "things[3]", "things[7]", MEAN]
    assert [block.over for block in data.id_sets] == [0, 0, 0, 3]
    shown = {data.rows[cell.row].label: cell.stats["auroc"] for cell in data.cells if data.rows[cell.row].block == 3}
    assert {row: (one.mean, one.std) for row, one in shown.items()} == {
        row: (round(fmean(by_seed(row)), 6), round(stdev(by_seed(row)), 6)) for row in ROWS
    }


def test_a_row_without_a_result_on_all_of_them_has_no_mean() -> None:
    failed = [
        replace(one, status="failed", reason="diverged", metrics={})
        if one.label == "beta" and "3" in one.id_set
        else one
        for one in records()
    ]
    absent = [one for one in records() if one.label != "beta" or "3" not in one.id_set]
    for found in (failed, absent):
        block = over_id_sets(summary_of(run_of(found)))
        assert block is not None
        alpha, beta = (next(iter(row.cells.values())) for row in block.rows)
        assert (alpha.status, beta.status, dict(beta.stats)) == ("ok", "absent", {})
        assert "\N{EN DASH}" in text_table(run_of(found), 160).split(MEAN)[1]


def test_seeds_that_lack_an_id_set_are_left_out() -> None:
    found = [one for one in records() if (one.label, one.id_set, one.seed) != ("beta", "things[7]", 1)]
    block = over_id_sets(summary_of(run_of(found)))
    assert block is not None
    (cell,) = block.rows[1].cells.values()
    assert (cell.status, cell.stats["auroc"].n) == ("partial", 1)
    assert cell.stats["auroc"].mean == pytest.approx(by_seed("beta")[0])


def _one_set() -> list[Record]:
    return [one for one in records() if one.id_set == "things[0]"]


def _another_data_set() -> list[Record]:
    return [*records(), *(record(row, 1, seed, data="others") for row in ROWS for seed in SEEDS)]


def _several_classes() -> list[Record]:
    return [replace(one, id_set=one.id_set.replace("[0]", "[0,1]")) for one in records()]


def _whole_sets() -> list[Record]:
    return [replace(one, id_set=one.id_set[:-3]) for one in records()]


def _two_ood_sets() -> list[Record]:
    return [*records(), replace(record("alpha", 0, 0), ood_set="noise")]


@pytest.mark.parametrize("make", [_one_set, _another_data_set, _several_classes, _whole_sets, _two_ood_sets])
def test_other_runs_have_none(make: Callable[[], list[Record]]) -> None:
    run = run_of(make())
    assert over_id_sets(summary_of(run)) is None
    assert "Mean of" not in text_table(run, 160)
    assert "Mean of" not in table_csv(run)
