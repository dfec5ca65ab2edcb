"""Warnings about numbers that are exact but misleading, and none about healthy ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark.metrics.exact import Counts, evaluate_counts, ties_of
from oodbench.benchmark.metrics.names import TIES
from oodbench.benchmark.records.record import Record, read_record, write_record
from oodbench.benchmark.records.run import StoredRun, read_stored_run, write_run_info
from oodbench.benchmark.views.tables.latex import table_latex
from oodbench.benchmark.views.tables.markdown import table_markdown
from oodbench.benchmark.views.tables.text import text_table

MARK = "¶"
HEALTHY_ID, HEALTHY_OOD = [float(k) for k in range(200)], [100.5 + k for k in range(150)]


def record(id_scores: list[float], ood_scores: list[float], **facts: Any) -> Record:
    """A cell with these scores, as the runner writes it."""
    counts = Counts.of(id_scores, ood_scores)
    values = evaluate_counts(counts)
    more = {"group": "far", "seed": 0, "detector": "probe", "label": facts.get("detector", "probe"), **facts}
    return Record(
        id_set="digits", ood_set=more.pop("ood_set", "sky"), outlier_source=False, seen=False, settings={},
        recipe="plain", recipe_settings={}, backbone="small_cnn", n_id=len(id_scores), n_ood=len(ood_scores),
        tpr=values.pop("tpr"), metrics=values, ties=ties_of(counts), id_accuracy=0.9, **more,
    )  # fmt: skip


def run_of(folder: Path, *records: Record) -> StoredRun:
    names = [write_record(folder, one).name for one in records]
    write_run_info(folder, {"cells": names})
    return read_stored_run(folder)


def shown(folder: Path, *records: Record) -> tuple[list[str], str]:
    """Label, accuracy and metrics of the first detector, and the text below the table as one line."""
    table, _, below = text_table(run_of(folder, *records), 1000).partition("Percent.")
    (row,) = (line for line in table.splitlines() if line.startswith(records[0].label))
    return row.split()[:7], below  # label, accuracy, five metrics


def test_healthy_scores_have_no_warning(tmp_path: Path) -> None:
    row, below = shown(tmp_path, record(HEALTHY_ID, HEALTHY_OOD))
    assert not any(MARK in number for number in row)
    assert MARK not in below
    assert "Warning" not in below
    assert "sanity" not in below


@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "where"),
    [
        ([1.0] * 20, HEALTHY_OOD, "ID"),
        (HEALTHY_ID, [300.0] * 30, "OOD"),
        ([1.0] * 20, [1.0] * 30, "ID and OOD"),
    ],
)
def test_a_constant_score_over_a_set(
    tmp_path: Path, id_scores: list[float], ood_scores: list[float], where: str
) -> None:
    row, below = shown(tmp_path, record(id_scores, ood_scores))
    assert [MARK in number for number in row] == [False, False, *[True] * 5]
    assert f"nothing is told apart within it (digits, probe, sky: {where})" in below
    assert f"{MARK} see the warnings" in below
    assert "more than 1%" not in below, "a constant score is tied everywhere; once is enough"


def test_a_set_of_one_image_is_not_constant(tmp_path: Path) -> None:
    assert "Warning" not in shown(tmp_path, record(HEALTHY_ID, [500.0]))[1]


def test_a_constant_sanity_row_is_as_it_should_be(tmp_path: Path) -> None:
    row, below = shown(tmp_path, record([0.0] * 20, [0.0] * 30, sanity=True))
    assert not any(MARK in number for number in row)
    assert "Warning" not in below
    assert "A sanity row gives all images the same score, as it is meant to" in below
    assert "(digits, probe, sky: ID and OOD)" in below


def tied(images: int, group: int) -> list[float]:
    """Scores of ID images of which only the `group` at the threshold are tied."""
    accepted = -(-19 * images // 20)
    return [min(float(k), float(accepted - group)) if k < accepted else float(k) for k in range(images)]


@pytest.mark.parametrize(
    ("group", "strange", "warned"),
    [(2, 0, False), (3, 0, True), (1, 1, False), (1, 2, True), (40, 75, True)],
    ids=["1% of ID", "1.5% of ID", "0.7% of OOD", "1.3% of OOD", "both"],
)
def test_more_than_one_percent_at_the_threshold(tmp_path: Path, group: int, strange: int, warned: bool) -> None:
    id_scores = tied(200, group)
    threshold = float(190 - group)
    one = record(id_scores, [threshold] * strange + [500.5 + k for k in range(150 - strange)])
    assert (one.ties["at_threshold_id"], one.ties["at_threshold_ood"]) == (group, strange)
    row, below = shown(tmp_path, one)
    assert [MARK in number for number in row] == [False, False, warned, *[False] * 4]  # TNR95 alone
    own = group / 200 if group > 1 else 0  # the one image that gives the threshold is not tied with another
    shares = f"{100 * own:.1f}% of ID, {100 * strange / 150:.1f}% of OOD"
    assert (f"TNR95 counts all of them as accepted (digits, probe, sky: {shares})" in below) == warned


def test_the_one_id_image_that_gives_the_threshold_is_not_a_tie(tmp_path: Path) -> None:
    few = record([float(k) for k in range(20)], [50.0 + k for k in range(20)])
    assert few.ties["at_threshold_id"] / 20 > 0.01
    assert "Warning" not in shown(tmp_path, few)[1]


@pytest.mark.parametrize(
    ("facts", "warned"),
    [({}, True), ({"group": "near"}, False), ({"group": ""}, False), ({"sanity": True}, False)],
)
def test_auroc_below_one_half_on_a_far_set(tmp_path: Path, facts: dict[str, Any], warned: bool) -> None:
    reversed_scores = [score - 60 for score in HEALTHY_ID[:150]]
    row, below = shown(tmp_path, record(HEALTHY_ID, reversed_scores, **facts))
    assert [MARK in number for number in row] == [False, False, False, warned, *[False] * 3]  # AUROC alone
    assert ("Warning: AUROC under 50% on a far OOD set" in below) == warned


def test_the_mean_over_seeds_is_what_is_below_one_half(tmp_path: Path) -> None:
    low, high = [float(k) - 20.25 for k in range(200)], [float(k) + 40.25 for k in range(200)]
    seeds = [record(HEALTHY_ID, scores, seed=seed) for seed, scores in enumerate((low, high))]
    assert seeds[0].metrics["auroc"] < 0.5 < seeds[1].metrics["auroc"]
    assert "Warning" not in shown(tmp_path / "both", *seeds)[1]
    assert "Warning: AUROC under 50%" in shown(tmp_path / "one", seeds[0])[1]


def test_cells_are_named_up_to_three_and_counted_beyond(tmp_path: Path) -> None:
    flat = [record([1.0] * 20, HEALTHY_OOD, ood_set=name) for name in ("a", "b", "c", "d", "e")]
    below = shown(tmp_path, *flat)[1]
    assert "(digits, probe, a: ID; digits, probe, b: ID; digits, probe, c: ID; and 2 more cells)" in below


def test_markdown_and_latex_say_the_same(tmp_path: Path) -> None:
    run = run_of(tmp_path, record([1.0] * 20, HEALTHY_OOD))
    assert "Warning: all images of a set have the same score" in table_markdown(run)
    assert table_markdown(run).count(MARK) == 6
    assert "Warning: all images of a set have the same score" in table_latex(run)
    assert r"\rlap{\textsuperscript{\P}}" in table_latex(run)


def test_records_of_older_versions_are_read_without_warnings(tmp_path: Path) -> None:
    path = write_record(tmp_path, record([1.0] * 20, [1.0] * 30))
    old = json.loads(path.read_text())
    assert old.pop("ties") == dict(zip(TIES, (1, 1, 20, 30), strict=True))
    del old["sanity"]
    path.write_text(json.dumps(old))
    read = read_record(path)
    assert (read.ties, read.sanity) == ({}, False)
    assert "Warning" not in shown(tmp_path / "run", read)[1]
