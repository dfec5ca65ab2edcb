"""The tables of a synthetic run against values computed by hand and against golden files.

After a wanted change of format: `UPDATE_GOLDEN=1 pytest tests/views/test_tables.py`, then read the diff.
"""

from __future__ import annotations

import dataclasses
import html
import itertools
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.records.best import Judged, Stored, inputs_of
from oodbench.benchmark.records.record import NOT_TRAINED, Record, write_record
from oodbench.benchmark.records.run import StoredRun, read_stored_run, write_run_info
from oodbench.benchmark.store.atomic import to_json
from oodbench.benchmark.views.tables.files import summarise, table_csv, write_tables
from oodbench.benchmark.views.tables.html import table_html
from oodbench.benchmark.views.tables.latex import table_latex
from oodbench.benchmark.views.tables.markdown import table_markdown
from oodbench.benchmark.views.tables.text import text_table
from tests.support import csv_rows

GOLDEN = Path(__file__).parents[1] / "golden"
DASH = "\N{EN DASH}"

PAIRS = {
    "digits_a": [
        ("shop_signs", "near", True),
        ("letters", "near", False),
        ("noise", "far", False),
        ("sky", "far", False),
    ],
    "photos": [("digits_a", "far", True), ("noise", "far", False), ("letters", "near", False)],
}
DETECTORS: list[tuple[str, dict[str, Any], str]] = [
    ("alpha", {}, "plain"),
    ("beta", {"temperature": 1000, "epsilon": 0.0014}, "plain"),
    ("gamma", {}, "exposed"),
    ("delta", {}, "plain"),
]
INFO = {
    "name": "made_up",
    "suite": {"name": "toy", "title": "A toy & nothing more"},
    "notes": ["The letters are drawn in 50% grey."],
    "unavailable": [{"name": "epsilon_net", "reason": "No module named 'eps'"}],
    "skipped": [{"what": "OOD set 'wood'", "reason": "not found in data/"}],
    "passes": "1,200 images forwarded: 6 checkpoints, one pass a split.",
}


def label_of(name: str, settings: dict[str, Any], recipe: str) -> str:
    inside = ",".join(f"{key}={value}" for key, value in settings.items())
    return name + (f"[{inside}]" if inside else "") + ("" if recipe == "plain" else f"@{recipe}")


def auroc(detector: int, ood: int, seed: int) -> float:
    """80% + 2 per detector + 4 per OOD set + 1 per seed: with three seeds the std is 1 point."""
    return (80 + 2 * detector + 4 * ood + seed) / 100


def outcome(id_set: str, name: str, ood_set: str, seed: int) -> tuple[str, str]:
    if (name, ood_set) == ("delta", "sky"):
        return "failed", "MemoryError: 100% of\nthe_memory & more\\less"
    if (id_set, name, ood_set) == ("photos", "beta", "letters"):
        return "skipped", "needs | gradients"
    if (id_set, name, ood_set, seed) == ("photos", "alpha", "noise", 1):
        return "failed", "diverged"
    return "ok", ""


def record(id_set: str, ood: int, detector: int, seed: int) -> Record:
    ood_set, group, source = PAIRS[id_set][ood]
    name, settings, recipe = DETECTORS[detector]
    status, reason = outcome(id_set, name, ood_set, seed)
    value = auroc(detector, ood, seed)
    metrics = {metric: value - 0.01 * i for i, metric in enumerate(METRICS)} | {"auroc": value}
    reach = 0.015 * (detector + 1)  # alpha has a standard error of 0.77 points, beta twice that
    return Record(
        id_set=id_set, ood_set=ood_set, group=group, outlier_source=source, seen=source and recipe == "exposed",
        detector=name, settings=settings, recipe=recipe, recipe_settings={}, backbone="small_cnn", seed=seed,
        label=label_of(name, settings, recipe), status=status, reason=reason, n_id=100, n_ood=50,
        id_accuracy=0.9 + 0.01 * seed, metrics=metrics if status == "ok" else {},
        intervals={m: [v - reach, min(v + reach, 1)] for m, v in metrics.items()} if status == "ok" else {},
        seconds=1.5, key="0" * 12,
    )  # fmt: skip


def made_up(folder: Path, seeds: Sequence[int], **info: Any) -> StoredRun:
    pairs = [
        {
            "id_set": id_set, "ood_set": name, "group": group, "outlier_source": source,
            "trivial": {"statistic": "pixel std", **dict.fromkeys(METRICS, 0.6)} if name != "letters" else None,
            "one_class": {"fitted_on": 90, **dict.fromkeys(METRICS, 0.95)} if name == "sky" else None,
        }
        for id_set, sets in PAIRS.items()
        for name, group, source in sets
    ]  # fmt: skip
    records = [
        record(id_set, ood, detector, seed)
        for id_set, sets in PAIRS.items()
        for detector in range(len(DETECTORS))
        for ood in range(len(sets))
        for seed in seeds
    ]
    run = written(folder, records, **(INFO | {"seeds": list(seeds), "pairs": pairs} | info))
    stored = Stored(inputs_of(run.records), True, list(judgement(seeds)))
    (folder / "best.json").write_text(to_json(dataclasses.asdict(stored)))
    return run


def judgement(seeds: Sequence[int]) -> Iterator[Judged]:
    """Which detectors may be the best: the last two that compete, in every column but one."""
    for id_set, ood_set in (
        ("digits_a", "shop_signs"),
        ("digits_a", "letters"),
        ("digits_a", "sky"),
        ("photos", "noise"),
    ):
        own = [record(id_set, [name for name, *_ in PAIRS[id_set]].index(ood_set), d, 0) for d in range(len(DETECTORS))]
        compete = [one.label for one in own if one.status == "ok" and not one.seen]
        common = [seed for seed in seeds if (id_set, seed) != ("photos", 1)]
        yield Judged(id_set, ood_set, common, compete, compete[-2:], [10, 50])


def written(folder: Path, records: Sequence[Record], **info: Any) -> StoredRun:
    names = [write_record(folder, one).name for one in records]
    write_run_info(folder, {**info, "cells": names})
    return read_stored_run(folder)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    return made_up(tmp_path_factory.mktemp("three"), (0, 1, 2))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    return made_up(tmp_path_factory.mktemp("one"), (0,))


def number(frame: Any, **where: Any) -> tuple[float, float, int]:
    """Mean, std and n of the single row of the data frame that `where` selects."""
    for column, value in where.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1, where
    return float(frame["mean"].iloc[0]), float(frame["std"].iloc[0]), int(frame["n"].iloc[0])


# Numbers


def test_means_and_deviations_are_over_seeds(three: StoredRun) -> None:
    frame = summarise(three)
    where = {"id_set": "digits_a", "label": "alpha", "scope": "set", "ood_set": "letters"}
    assert number(frame, metric="auroc", **where) == pytest.approx((0.85, 0.01, 3))
    values = [auroc(0, 1, seed) - 0.03 for seed in (0, 1, 2)]
    expected = (statistics.mean(values), statistics.stdev(values), 3)
    assert number(frame, metric="aupr_in", **where) == pytest.approx(expected)
    accuracy = number(frame, id_set="digits_a", label="alpha", scope="id", metric="id_accuracy")
    assert accuracy == pytest.approx((0.91, 0.01, 3))


def test_one_seed_has_no_deviation(one: StoredRun) -> None:
    mean, std, n = number(summarise(one), id_set="photos", label="delta", ood_set="noise", metric="auroc", scope="set")
    assert mean == pytest.approx(0.90)
    assert n == 1
    assert math.isnan(std)


def test_means_leave_out_the_source_for_every_row(three: StoredRun) -> None:
    frame = summarise(three)
    assert number(frame, id_set="digits_a", label="alpha", scope="near", metric="auroc")[0] == pytest.approx(0.85)
    assert number(frame, id_set="digits_a", label="gamma@exposed", scope="near", metric="auroc")[0] == pytest.approx(
        0.89
    )
    # far of digits_a: noise and sky, averaged seed by seed
    per_seed = [(auroc(0, 2, seed) + auroc(0, 3, seed)) / 2 for seed in (0, 1, 2)]
    expected = (statistics.mean(per_seed), statistics.stdev(per_seed), 3)
    assert number(frame, id_set="digits_a", label="alpha", scope="far", metric="auroc") == pytest.approx(expected)


def test_the_mean_is_taken_seed_by_seed(tmp_path: Path) -> None:
    first, second = record("digits_a", 2, 0, 0), record("digits_a", 3, 0, 0)
    values = {("noise", 0): 0.9, ("sky", 0): 0.5, ("noise", 1): 0.5, ("sky", 1): 0.9}
    records = [
        dataclasses.replace(base, seed=seed, metrics={"auroc": values[base.ood_set, seed]})
        for base in (first, second)
        for seed in (0, 1)
    ]
    frame = summarise(written(tmp_path, records))
    assert number(frame, scope="far", metric="auroc") == pytest.approx((0.7, 0.0, 2))
    assert number(frame, scope="set", ood_set="sky", metric="auroc")[1] == pytest.approx(math.sqrt(0.08))


def test_worst_is_the_smallest_mean_or_the_largest_false_positive_rate(three: StoredRun) -> None:
    frame = summarise(three)
    row = frame[(frame["id_set"] == "digits_a") & (frame["label"] == "alpha") & (frame["scope"] == "worst")]
    worst = row.set_index("metric")["ood_set"].to_dict()
    assert worst["auroc"] == "letters"  # shop_signs is lower, and the outlier source
    assert worst["fpr_at_tpr95"] == "sky"
    assert number(frame, id_set="digits_a", label="alpha", scope="worst", metric="auroc")[0] == pytest.approx(0.85)


def test_a_row_that_lacks_a_set_has_no_mean_over_it(three: StoredRun) -> None:
    frame = summarise(three)
    delta = frame[(frame["id_set"] == "digits_a") & (frame["label"] == "delta")]
    assert set(delta["scope"]) == {"id", "set", "near"}
    cell = delta[(delta["ood_set"] == "sky") & (delta["metric"] == "auroc")].iloc[0]
    assert (cell["status"], cell["n"]) == ("failed", 0)
    assert cell["reason"] == "MemoryError: 100% of the_memory & more\\less"


def test_a_seed_that_failed_is_counted_and_reported(three: StoredRun) -> None:
    frame = summarise(three)
    where = {"id_set": "photos", "label": "alpha", "metric": "auroc"}
    expected = (statistics.mean([0.84, 0.86]), statistics.stdev([0.84, 0.86]), 2)
    assert number(frame, scope="set", ood_set="noise", **where) == pytest.approx(expected)
    assert number(frame, scope="far", **where) == pytest.approx(expected)
    cells = frame[(frame["status"] == "partial")]
    assert set(cells["reason"]) == {"seed 1: diverged"}
    assert "‡ photos, alpha, noise: seed 1: diverged" in text_table(three)


def test_who_may_be_the_best_is_marked_where_it_was_judged(three: StoredRun, tmp_path: Path) -> None:
    text = blocks(text_table(three, 400))
    row = {line.split()[0].partition("[")[0]: line for line in text[0].splitlines() if "±" in line}
    assert row["delta"].count("°") == 2  # shop_signs and letters; it failed on sky, and noise was not judged
    assert row["gamma@exposed"].count("°") == 2  # letters and sky; it was trained on shop_signs
    assert row["beta"].count("°") == 2
    assert row["alpha"].count("°") == 0
    frame = summarise(three)
    letters = frame[(frame["metric"] == "auroc") & (frame["ood_set"] == "letters") & (frame["id_set"] == "digits_a")]
    assert letters[letters["scope"] == "set"]["may_be_best"].tolist() == [False, False, True, True]
    rows = csv_rows(table_csv(three))
    assert [one["sky/auroc/may_be_best"] for one in rows[:4]] == ["false", "true", "true", ""]
    assert [one["shop_signs/auroc/may_be_best"] for one in rows[:4]] == ["false", "true", "", "true"]
    legend = " ".join(text_table(three, 400).split())
    assert "A column with cells of fewer seeds is judged on the seeds that all have." in legend
    assert "Not judged: digits_a against noise, photos against digits_a, photos against letters." in legend
    assert table_latex(three).count(r"\rlap{$^\circ$}") == 8
    assert table_markdown(three).count("°") == 8 + 1  # and what it means


def test_a_judgement_of_other_records_is_not_shown(three: StoredRun, tmp_path: Path) -> None:
    other = dataclasses.replace(three, records=[dataclasses.replace(r, key="f" * 12) for r in three.records])
    fewer = dataclasses.replace(three, records=three.records[:-1])
    for spoilt in (other, fewer):
        assert "°" not in text_table(spoilt)
        assert not any(one["letters/auroc/may_be_best"] for one in csv_rows(table_csv(spoilt)))
    copy = dataclasses.replace(three, path=tmp_path)
    for content in ("", "[]", '{"inputs": 3}', '{"columns": [{"id_set": 1}], "inputs": "", "whole": true}', "{" * 9999):
        (tmp_path / "best.json").write_text(content)
        assert "°" not in text_table(copy)


def test_seen_and_source_are_distinguished(three: StoredRun) -> None:
    frame = summarise(three)
    assert set(frame[frame["seen"]]["label"]) == {"gamma@exposed"}
    assert set(frame[frame["outlier_source"]]["label"]) == {label_of(*detector) for detector in DETECTORS}


# The terminal


def blocks(text: str) -> list[str]:
    return re.split(r"(?m)^ID set ", text)[1:]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
@pytest.mark.parametrize("which", ["one", "three"])
def test_no_line_is_wider_than_the_terminal(which: str, width: int, request: pytest.FixtureRequest) -> None:
    text = text_table(request.getfixturevalue(which), width)
    assert max(len(line) for line in text.splitlines()) <= width
    for name, _, _ in PAIRS["digits_a"]:
        assert len(re.findall(rf"^ .*\b{name} \(", text, re.MULTILINE)) >= 1


def test_panels_repeat_the_labels(three: StoredRun) -> None:
    first = blocks(text_table(three, 80))[0]
    assert first.count("alpha") == len(PAIRS["digits_a"]) + 1
    assert blocks(text_table(three, 400))[0].count("alpha") == 1


def test_numbers_are_aligned(three: StoredRun) -> None:
    for block in blocks(text_table(three, 120)):
        for panel in block.split("\n\n"):
            rows = [line for line in panel.splitlines() if line.count("±") > 3]
            columns = itertools.zip_longest(*([m.start() for m in re.finditer("±", row)] for row in rows))
            whole = [set(column) for column in columns]
            assert sum(len(column) > 1 for column in whole) == 0 or "failed" in panel or "skipped" in panel


def test_the_best_is_marked_and_seen_cells_do_not_compete(three: StoredRun) -> None:
    text = text_table(three, 400)
    lines = {line.split()[0]: line for line in blocks(text)[0].splitlines() if line}
    assert "85.0 ± 1.0†" in lines["gamma@exposed"]
    assert "87.0 ± 1.0*" in lines["delta"]
    assert "failed [1]" in lines["delta"]
    assert "†*" not in text
    assert "*†" not in text


def test_seen_cells_are_never_best_even_when_highest(tmp_path: Path) -> None:
    records = [record("digits_a", 0, detector, 0) for detector in (0, 1, 2)]
    lines = text_table(written(tmp_path, records), 200).splitlines()
    beta, gamma = (next(line for line in lines if line.startswith(name)) for name in ("beta", "gamma"))
    assert beta.count("*") == 5
    assert "*" not in gamma
    assert gamma.count("†") == 5


def test_ties_as_printed_are_all_best_and_a_lone_row_is_not(tmp_path: Path) -> None:
    close = [
        dataclasses.replace(record("digits_a", 1, d, 0), metrics={"auroc": v})
        for d, v in enumerate((0.90001, 0.9, 0.8))
    ]
    lines = text_table(written(tmp_path / "a", close), 200).splitlines()
    assert [line.count("90.0*") for line in lines if line.startswith(("alpha", "beta", "gamma"))] == [
        3,
        3,
        0,
    ]  # AUROC, near mean, worst
    assert "*" not in text_table(written(tmp_path / "b", close[:1]), 200).split("Percent.")[0]


def test_colour_is_bold_and_changes_no_layout(three: StoredRun) -> None:
    coloured = text_table(three, 120, colour=True)
    assert "\x1b[1m" in coloured
    assert "*" not in click.unstyle(coloured)
    plain = text_table(three, 120).replace("*", " ")
    strip = [line.rstrip() for line in plain.split("Percent.")[0].splitlines()]
    assert [line.rstrip() for line in click.unstyle(coloured).split("Percent.")[0].splitlines()] == strip


def test_the_legend_is_complete(one: StoredRun, three: StoredRun) -> None:
    text = " ".join(text_table(three, 120).split())
    for sentence in (
        "Mean ± std over 3 seeds (0, 1, 2; ddof = 1)", "accepts 95% of ID", "[1] failed: MemoryError: 100% of the_",
        "[2] skipped: needs | gradients", "† seen", "Note: The letters", "epsilon_net (No module named 'eps')",
        "OOD set 'wood' (not found in data/)", "1,200 images forwarded", "best statistic, OOD seen",
    ):  # fmt: skip
        assert sentence in text, sentence
    assert "One seed (0)." in text_table(one)
    assert "±" not in text_table(one)


@pytest.mark.parametrize("area, solved", [(0.949, False), (0.95, True), (1.0, True), (None, False)])
def test_pairs_that_statistics_without_a_network_separate_are_named(
    three: StoredRun, area: float | None, solved: bool
) -> None:
    pairs = [
        {**pair, "one_class": {**pair["one_class"], "auroc": area} if pair["one_class"] and area else None}
        for pair in three.info["pairs"]
    ]
    run = dataclasses.replace(three, info={**three.info, "pairs": pairs})
    for text in (" ".join(text_table(run, 120).split()), table_markdown(run).replace("\\", "")):
        assert ("digits_a against sky (one-class model" in text) == solved, "named"
        assert "digits_a against noise (" not in text, "a statistic that reaches 60 separates nothing"
        assert text.count("one-class, ID train only") == (1 if area is not None else 0)


def test_a_statistic_that_separates_a_pair_is_named_with_its_direction(three: StoredRun) -> None:
    found = {"statistic": "colour difference", "direction": "unusual is OOD", "auroc": 1.0}
    pairs = [{**pair, "trivial": found if pair["ood_set"] == "letters" else None} for pair in three.info["pairs"]]
    text = " ".join(text_table(dataclasses.replace(three, info={**three.info, "pairs": pairs}), 200).split())
    for id_set in ("digits_a", "photos"):
        assert f"{id_set} against letters (colour difference, either way 100.0)" in text


def test_notes_of_cells_are_printed_once(tmp_path: Path) -> None:
    noted = [
        dataclasses.replace(record("photos", ood, d, 0), notes=("tuned on sky",)) for ood in (1, 2) for d in (0, 2)
    ]
    text = " ".join(text_table(written(tmp_path, noted)).split())
    assert text.count("tuned on sky") == 1
    assert (
        "Note: tuned on sky (photos, alpha, noise; photos, gamma@exposed, noise; photos, alpha, letters; and 1 more"
        in text
    )


def test_a_run_that_knows_little_still_has_tables(tmp_path: Path) -> None:
    run = written(tmp_path / "bare", [record("photos", 1, 0, 0)])
    for view in (text_table, table_markdown, table_latex, table_csv):
        assert "alpha" in view(run)
    nothing = written(tmp_path / "nothing", [])
    assert "No cells to show" in text_table(nothing)
    assert "No cells to show" in table_markdown(nothing)
    assert "No cells to show" in table_latex(nothing)
    assert len(table_csv(nothing).splitlines()) == 1
    assert summarise(nothing).empty


def test_what_was_not_run_is_a_dash(tmp_path: Path) -> None:
    records = [record("photos", ood, detector, 0) for ood, detector in ((1, 0), (1, 1), (2, 0))]
    text = text_table(written(tmp_path, records), 200)
    assert next(line for line in text.splitlines() if line.startswith("beta")).count(DASH) >= 5
    assert f"{DASH} not run" in text


# Files


def update_or_compare(name: str, content: str) -> None:
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode())
    assert content.encode() == path.read_bytes(), f"{name} has changed; see the top of {Path(__file__).name}"


@pytest.mark.parametrize(
    ("name", "view"), [("table.md", table_markdown), ("table.csv", table_csv), ("table.tex", table_latex)]
)
def test_golden_files(name: str, view: Any, three: StoredRun) -> None:
    update_or_compare(f"three_seeds_{name}", view(three))


def test_golden_text(one: StoredRun, three: StoredRun) -> None:
    update_or_compare("three_seeds_120.txt", text_table(three, 120))
    update_or_compare("one_seed_100.txt", text_table(one, 100))


def test_csv_is_fractions_with_six_decimals(three: StoredRun) -> None:
    rows = csv_rows(table_csv(three))
    assert len(rows) == 2 * len(DETECTORS)
    first = rows[0]
    assert (first["letters/auroc/mean"], first["letters/auroc/std"]) == ("0.850000", "0.010000")
    assert (first["worst/auroc/set"], first["near_mean/auroc/mean"]) == ("letters", "0.850000")
    delta = rows[3]
    assert (delta["sky/status"], delta["sky/auroc/mean"], delta["far_mean/auroc/mean"]) == ("failed", "", "")
    assert (rows[4]["noise/status"], rows[4]["noise/seeds"], rows[4]["sky/status"]) == ("partial", "2", "")
    assert (rows[1]["settings"], rows[1]["recipe"]) == ('{"epsilon": 0.0014, "temperature": 1000}', "plain")


def test_csv_does_not_depend_on_time(three: StoredRun, tmp_path: Path) -> None:
    slower = dataclasses.replace(
        three, records=[dataclasses.replace(r, seconds=99.0, forward_images=9) for r in three.records]
    )
    assert table_csv(slower) == table_csv(three)


def test_markdown_escapes(tmp_path: Path) -> None:
    odd = dataclasses.replace(
        record("photos", 1, 3, 0),
        label="a|b_c",
        id_set="<b>*x*</b>",
        status="failed",
        reason="a|b <script> `x` _y_ & [z]",
    )
    text = table_markdown(written(tmp_path, [odd, record("photos", 1, 0, 0)]))
    assert r"a\|b &lt;script&gt; \`x\` \_y\_ &amp; \[z\]" in text
    assert "ID set &lt;b&gt;\\*x\\*&lt;/b&gt;" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, table


WEIRD = r"we_ird%&#$~^\{}[x=--1,y=<<2]@re'cipe"


def weird(folder: Path) -> StoredRun:
    base = record("photos", 1, 0, 0)
    odd = dataclasses.replace(base, label=WEIRD, id_set="i_d%", ood_set="o_o#d")
    lost = dataclasses.replace(odd, label="[*]", status="failed", reason="50% \\of {it} → ∑ “é” ž", metrics={})
    return written(folder, [odd, lost], notes=["[a] note_with $5 & ~tilde^"])


def test_latex_escapes(tmp_path: Path) -> None:
    text = table_latex(weird(tmp_path))
    for escaped in (r"i\_d\%", r"o\_o\#d", r"\&", r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}"):
        assert escaped in text
    assert r"\$\to$" not in text
    assert "(U+2211)" in text
    assert "é" in text
    assert_balanced(text)


def assert_balanced(text: str) -> None:
    """Braces and environments close in order: what can be checked without LaTeX."""
    text = re.sub(r"\\\\|\\[{}]", "", text)
    depth = 0
    for brace in re.findall(r"[{}]", text):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    open_environments: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            open_environments.append(name)
        else:
            assert open_environments.pop() == name
    assert not open_environments


@pytest.mark.parametrize("which", ["one", "three", "weird"])
def test_latex_compiles(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run = weird(tmp_path) if which == "weird" else request.getfixturevalue(which)
    text = table_latex(run)
    assert_balanced(text)
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed; only braces and environments were checked")
    (tmp_path / "table.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_files_are_written_once(three: StoredRun, tmp_path: Path) -> None:
    run = dataclasses.replace(three, path=tmp_path)
    paths = write_tables(run)
    assert [path.name for path in paths] == ["records.csv", "table.csv", "table.md", "table.tex"]
    assert all(path.read_text(encoding="utf-8") for path in paths)
    before = [path.stat().st_ino for path in paths]
    assert write_tables(run) == paths
    assert [path.stat().st_ino for path in paths] == before
    (tmp_path / "table.md").write_text("old")
    write_tables(run)
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == table_markdown(run)


@pytest.mark.slow
def test_views_need_neither_torch_nor_pyplot() -> None:
    code = (
        "import sys, oodbench.benchmark.views.tables.files, oodbench.benchmark.views.plots.draw\n"
        "assert not {'torch', 'matplotlib.pyplot', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


SEEDS_ADVICE = "What training seeds add, --seeds 3 shows."


@pytest.mark.parametrize("recipe", NOT_TRAINED)
def test_seeds_are_advised_only_where_a_network_was_trained(one: StoredRun, tmp_path: Path, recipe: str) -> None:
    given = [replace(record, recipe=recipe) for record in one.records]
    assert SEEDS_ADVICE in table_markdown(one)
    found = table_markdown(written(tmp_path / "given", given))
    assert SEEDS_ADVICE not in found
    assert "in the widest" in found, "the rest of the sentence stays"
    mixed = table_markdown(written(tmp_path / "mixed", [*given, replace(one.records[0], label="trained")]))
    assert SEEDS_ADVICE in mixed


@pytest.mark.parametrize("weights", ["checkpoint[file=mine_1_.pt]", "checkpoint[file=best.pt+2]", "pretrained"])
def test_given_weights_that_all_rows_share_are_in_the_title(one: StoredRun, tmp_path: Path, weights: str) -> None:
    plain = [record for record in one.records if "@" not in record.label]
    given = [replace(record, label=f"{record.label}@{weights}", recipe="checkpoint") for record in plain]
    run = written(tmp_path / "given", given)
    for view in (text_table, table_markdown, table_latex, table_html):
        table = re.sub(r"\\|\{(?=[\[\]])|(?<=[\[\]])\}", "", html.unescape(view(run)))
        for id_set, backbone in {record.id_set: record.backbone for record in plain}.items():
            assert f"ID set {id_set}, {backbone}, {weights}" in table, view
    rows = text_table(run, 1000).partition("Percent.")[0]
    assert f"@{weights}" not in rows
    assert all(f"\n{record.label} " in rows for record in plain)
    assert {record.label for record in run.records} == {record.label for record in given}, "records keep theirs"
    trained = replace(plain[0], label=f"{plain[0].label}@other", recipe="other")
    mixed = text_table(written(tmp_path / "mixed", [*given, trained]), 1000)
    assert f"{given[0].label} " in mixed, "rows differ, so each says what it is"
