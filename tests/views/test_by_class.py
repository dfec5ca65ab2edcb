"""AUROC by class in tables, files, data frames and reports: means over seeds, the lowest, and matrices of any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oodbench.benchmark.records.record import Record
from oodbench.benchmark.stats.by_class import Labelled, by_class
from oodbench.benchmark.store.schema import ByClass
from oodbench.benchmark.views.by_class import shown_classes
from oodbench.benchmark.views.marks import DASH
from oodbench.benchmark.views.report.classes import COLUMNS, LOWEST, ROWS, Classes
from oodbench.benchmark.views.report.collect import report_data
from oodbench.benchmark.views.run import public
from oodbench.benchmark.views.tables.by_class import NAME, class_stacks, legend
from oodbench.benchmark.views.tables.extended import extended_markdown, extended_text
from oodbench.benchmark.views.tables.files import write_tables
from tests.scored_runs import normal_scores, scored_run
from tests.support import csv_rows

ID_NAMES = ("zero", "n01440764", "a class with a name of many words")
OOD_NAMES = ("alpha", "beta", "gamma", "delta")


def drawn(record: Record, ood_names: tuple[str, ...] = OOD_NAMES) -> ByClass:
    """AUROCs by class of a record's scores, with made-up labels; of noise without OOD classes."""
    id_scores, ood_scores = (normal_scores(record.label, name, record.seed) for name in ("digits", record.ood_set))
    labels = np.arange(200) % len(ood_names) if record.ood_set != "uniform" else None
    return by_class(Labelled(id_scores, np.arange(200) % 3, ID_NAMES), Labelled(ood_scores, labels, ood_names))


def with_classes(record: Record) -> Record:
    return replace(record, by_class=drawn(record), extended={"tnr_at_tpr99": 0.5})


def test_tables_have_the_lowest_of_means_over_seeds(tmp_path: Path) -> None:
    run = scored_run(tmp_path, labels=("msp", "knn[k=5]"), seeds=(0, 1, 2), change=with_classes)
    records = [record for record in run.records if (record.label, record.ood_set) == ("msp", "glyphs")]
    of_seeds = np.array([[one.auroc for one in record.by_class.ood] for record in records])
    means = of_seeds.mean(axis=0)
    low, high = (np.mean([getattr(r.by_class.ood[means.argmin()], end) for r in records]) for end in ("low", "high"))
    (stack,) = class_stacks(run)
    item = next(one for one in stack.items if (one.cell, one.title) == ("glyphs", "msp"))
    expected = f"{OOD_NAMES[means.argmin()]}: {100 * means.min():.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    assert item.numbers[1] == expected
    pairs = np.mean([record.by_class.pairs for record in records], axis=0)
    assert item.numbers[2].endswith(f": {100 * pairs.min():.1f}")
    noise = next(one for one in stack.items if (one.cell, one.title) == ("uniform", "msp"))
    assert noise.numbers[1:] == (DASH, DASH)
    text = extended_text(run)
    assert expected in text
    assert "The lowest of many" in " ".join(text.split())
    assert expected.replace("[", r"\[").replace("]", r"\]") in extended_markdown(run)
    rows = csv_rows((tmp_path / "runs/made_up/classes.csv").read_text()) if write_tables(run) else []
    row = next(r for r in rows if (r["ood_set"], r["label"], r["class"]) == ("glyphs", "msp", "beta"))
    assert (row["images"], row["seeds"], row["side"]) == ("50", "3", "ood")
    assert float(row["auroc/std"]) == pytest.approx(of_seeds[:, 1].std(ddof=1), abs=1e-6)
    frame = public(run).classes()
    assert len(frame) == 2 * (3 + 4 + 12 + 3)
    pair = frame.query("label == 'msp' and id_class == 'zero' and ood_class == 'beta'").iloc[0]
    assert pair["auroc"] == pytest.approx(pairs[0, 1])
    assert np.isnan(pair["low"])


def test_names_are_shown_in_words_and_shortened_in_text_only(tmp_path: Path) -> None:
    run = scored_run(tmp_path, change=with_classes)
    found = shown_classes([run.records[0]])
    assert found is not None
    assert [one.name for one in found.id] == ["zero", "n01440764 (tench)", ID_NAMES[2]]
    shown = [number for stack in class_stacks(run) for item in stack.items for number in item.numbers]
    assert all(len(number.partition(":")[0].partition(" / ")[0]) <= NAME for number in shown)
    write_tables(run)
    assert ID_NAMES[2] in (run.path / "classes.csv").read_text()


def test_a_run_without_them_has_no_file_and_no_words(tmp_path: Path) -> None:
    write_tables(scored_run(tmp_path, change=with_classes))
    assert (tmp_path / "runs/made_up/classes.csv").is_file()
    plain = scored_run(tmp_path)
    write_tables(plain)
    assert not (plain.path / "classes.csv").exists()
    assert (class_stacks(plain), list(legend(plain)), len(public(plain).classes())) == ([], [], 0)
    data = report_data([plain], tmp_path)
    assert (data.class_lists, {cell.by_class for cell in data.cells}) == ([], {None})


def test_seeds_with_other_classes_are_not_averaged(tmp_path: Path) -> None:
    def other(record: Record) -> Record:
        return replace(record, by_class=drawn(record, OOD_NAMES[:3] if record.seed else OOD_NAMES))

    run = scored_run(tmp_path, seeds=(0, 1), change=other)
    found = shown_classes([record for record in run.records if (record.label, record.ood_set) == ("msp", "glyphs")])
    assert found is not None
    assert (found.seeds, found.pairs.shape) == (1, (3, 4))


def test_a_report_has_them_by_cell(tmp_path: Path) -> None:
    run = scored_run(tmp_path, labels=("msp", "knn[k=5]"), change=with_classes)
    data = report_data([run], tmp_path)
    assert [one.names for one in data.class_lists] == [["zero", "n01440764 (tench)", ID_NAMES[2]], [*OOD_NAMES]]
    for cell in data.cells:
        numbers, row, ood_set = cell.by_class, data.rows[cell.row], data.id_sets[0].sets[cell.set].name
        own = next(r.by_class for r in run.records if (r.label, r.ood_set) == (row.label, ood_set))
        assert numbers is not None
        assert numbers.of_id == [pytest.approx([one.auroc, one.low, one.high], abs=6e-5) for one in own.id]
        assert (numbers.id, numbers.ood) == (0, None if ood_set == "uniform" else 1)
        assert len(numbers.pairs) == len(own.pairs)
        if own.pairs:
            assert numbers.pairs[2] == pytest.approx(own.pairs[2], abs=6e-5)


@pytest.mark.parametrize(
    "shape, fits", [((ROWS, COLUMNS), True), ((COLUMNS, ROWS), True), ((ROWS + 1, 2), False), ((27, 27), False)]
)
def test_a_matrix_that_is_too_large_to_read_becomes_a_list(
    shape: tuple[int, int], fits: bool, made_up_record: Callable[[ByClass], Record]
) -> None:
    random = np.random.default_rng(0)
    sides = [
        Labelled(random.normal(size=2 * n), np.arange(2 * n) % n, tuple(f"class {k}" for k in range(n))) for n in shape
    ]
    found = by_class(sides[0], sides[1])
    numbers = Classes().numbers([made_up_record(found)])
    assert numbers is not None
    if fits:
        assert (len(numbers.pairs), len(numbers.pairs[0]), numbers.lowest) == (*shape, [])
        return
    assert numbers.pairs == []
    lowest = sorted(value for row in found.pairs for value in row)[:LOWEST]
    assert [value for _, _, value in numbers.lowest] == pytest.approx(lowest, abs=6e-5)
    row, column, value = numbers.lowest[0]
    assert found.pairs[int(row)][int(column)] == pytest.approx(value, abs=6e-5)


@pytest.fixture
def made_up_record(tmp_path: Path) -> Callable[[ByClass], Record]:
    record = scored_run(tmp_path, labels=("msp",), sets={"glyphs": "near"}).records[0]
    return lambda found: replace(record, by_class=found)
