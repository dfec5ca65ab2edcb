"""Tables for papers: what is chosen, ranked, said and escaped, on records whose numbers are known."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.best import Judged, Stored, inputs_of
from oodbench.benchmark.records.record import FAILED, Record, write_record
from oodbench.benchmark.records.run import StoredRun, read_stored_run, write_run_info
from oodbench.benchmark.store.atomic import to_json
from oodbench.benchmark.views.marks import DASH
from oodbench.benchmark.views.run import Format, public
from oodbench.benchmark.views.tables.paper.as_csv import safe
from oodbench.benchmark.views.tables.paper.build import ranked
from oodbench.benchmark.views.tables.paper.grid import Cell, Head, PaperTable, panels, sheets
from oodbench.benchmark.views.tables.paper.spec import read_style, specs_of, style_names
from oodbench.benchmark.views.tables.paper.write import built, references, written
from tests.support import bench

SETS = {"svhn": "far", "cifar100": "near", "textures": "far"}
NAMES = ("msp", "odin", "vim", "joint")


def cell(label: str, ood: str, auroc: float, seed: int = 0, id_set: str = "cifar10", **fields: Any) -> Record:
    """A cell whose FPR95 is 1 - AUROC with ID positive, and half of that with OOD positive."""
    metrics = {"auroc": auroc, "tnr_at_tpr95": auroc, "fpr_at_tpr95": 1 - auroc, "openood_fpr95": (1 - auroc) / 2}
    metrics |= {"detection_accuracy": auroc / 2, "aupr_in": auroc, "aupr_out": auroc}
    outliers = [{"use": "train on outliers", "set": "x", "part": "p", "images": 1, "sha256": ""}]
    values: dict[str, Any] = {
        "id_set": id_set, "ood_set": ood, "group": SETS.get(ood, ""), "outlier_source": False, "seen": False,
        "detector": label, "settings": {}, "recipe": label if label == "joint" else "plain", "recipe_settings": {},
        "backbone": "wrn", "seed": seed, "label": label, "metrics": metrics, "id_accuracy": 0.95,
        "intervals": {"auroc": [auroc - 0.01, auroc + 0.01]},
        "provenance": {"data": outliers if label == "joint" else [{**outliers[0], "use": "train"}]},
    }  # fmt: skip
    return Record(**{**values, **fields})


def value(row: int, ood: int, seed: int) -> float:
    return round(0.8 + 0.03 * row + 0.01 * ood + 0.001 * seed, 6)


def records(names: Sequence[str] = NAMES, seeds: int = 1, id_set: str = "cifar10") -> list[Record]:
    return [
        cell(name, ood, value(row, place, seed), seed, id_set)
        for row, name in enumerate(names)
        for place, ood in enumerate(SETS)
        for seed in range(seeds)
    ]


COSTS = {
    "msp": {"kind": "posthoc", "passes": [0, 0], "networks": 1},
    "odin": {"kind": "posthoc", "passes": [2, 2], "networks": 1},
    "vim": {"kind": "posthoc", "passes": [0, 0], "networks": 1},
    "joint": {"kind": "trained", "passes": [0, 0], "networks": 3},
}


def run_of(cells: Sequence[Record], **info: Any) -> StoredRun:
    seeds = sorted({one.seed for one in cells})
    return StoredRun(Path("nowhere"), {"name": "made", "seeds": seeds, "costs": COSTS, **info}, list(cells))


def grid(table: PaperTable) -> dict[str, list[str]]:
    """Row -> its cells as printed: `*` bold, `_` underlined."""
    return {
        row.text: [c.mean + f"±{c.std}" * bool(c.std) + "*" * c.bold + "_" * c.underline + c.marks for c in cells]
        for row, cells in zip(table.rows, table.cells, strict=True)
    }


def one(cells: Sequence[Record], **options: Any) -> PaperTable:
    (table,) = built(run_of(cells), options)
    return table


# What is shown


def test_rows_sets_columns_and_order() -> None:
    table = one(records(), detectors="msp,vim,odin", ood="svhn,textures", columns="auroc,fpr95", sort="svhn:fpr95")
    assert [head.path for head in table.columns] == [
        "SVHN AUROC ↑", "SVHN FPR95 (ID+) ↓", "Textures AUROC ↑", "Textures FPR95 (ID+) ↓",
        "Far-OOD mean AUROC ↑", "Far-OOD mean FPR95 (ID+) ↓",
    ]  # fmt: skip
    assert grid(table) == {
        "ViM": ["86.0*", "14.0*", "88.0*", "12.0*", "87.0*", "13.0*"],
        "ODIN": ["83.0", "17.0", "85.0", "15.0", "84.0", "16.0"],
        "MSP": ["80.0", "20.0", "82.0", "18.0", "81.0", "19.0"],
    }
    assert [head.label for head in table.rows] == ["vim", "odin", "msp"]


def test_means_over_all_sets_and_over_sets_without_a_group() -> None:
    table = one(records(), columns="auroc", group_means="near,far,all", sets=False, detectors="msp", decimals=3)
    assert [head.title for head in table.columns] == ["Near-OOD mean", "Far-OOD mean", "Mean"]
    assert grid(table) == {"MSP": ["81.000", "81.000", "81.000"]}
    ungrouped = [cell("msp", name, auroc, group="") for name, auroc in (("a", 0.7), ("b", 0.8))]
    table = one(ungrouped, columns="auroc")
    assert grid(table) == {"MSP": ["70.0", "80.0", "75.0"]}
    assert "Mean: over the 2 OOD sets." in table.caption
    with pytest.raises(UserError, match=r"No ID set has a mean over near OOD sets to show"):
        one(ungrouped, columns="auroc", group_means="near")


def test_one_metric_is_the_heading_of_its_sets() -> None:
    table = one(records(), columns="openood_fpr95", group_means="none", detectors="msp")
    assert [head.path for head in table.columns] == [
        f"FPR95 (OOD+) ↓ {name}" for name in ("SVHN", "CIFAR-100", "Textures")
    ]


def test_transposed_and_stacked_tables_have_the_same_numbers() -> None:
    wide = one(records(), columns="auroc,fpr95", group_means="none")
    turned = one(records(), columns="auroc,fpr95", group_means="none", transpose=True)
    assert turned.rows == wide.columns
    assert turned.columns == wide.rows
    assert list(zip(*turned.cells, strict=True)) == list(wide.cells)
    stacked = one(records(), columns="auroc,fpr95", group_means="none", layout="stacked")
    assert [(row.group, row.title) for row in stacked.rows][3:5] == [
        ("SVHN", "Joint confidence loss"),
        ("CIFAR-100", "MSP"),
    ]
    assert [cells for row in wide.cells for cells in (row[:2], row[2:4], row[4:])] == [
        stacked.cells[place * 4 + row] for row in range(4) for place in range(3)
    ]


def test_kinds_of_rows_and_what_they_cost() -> None:
    table = one(
        records(), columns="data,passes,networks,auroc", group_rows="trained,posthoc", ood="svhn", group_means="none"
    )
    assert [(row.group, row.title) for row in table.rows] == [
        ("With a training of their own", "Joint confidence loss"),
        ("Post-hoc", "MSP"), ("Post-hoc", "ODIN"), ("Post-hoc", "ViM"),
    ]  # fmt: skip
    assert [line[:3] for line in grid(table).values()] == [
        ["outliers", "1", "3"], [DASH, "1", "1"], [DASH, "1+2", "1"], [DASH, "1", "1"],
    ]  # fmt: skip
    assert any(
        note.startswith("Data: what a row was given besides the trained network; outliers:") for note in table.notes
    )
    assert not any(note.startswith("Unlike costs") for note in table.notes)


def test_costs_without_a_column_are_said() -> None:
    (note,) = [note for note in one(records(), columns="auroc").notes if note.startswith("Unlike costs")]
    assert "OOD images in training or fitting: Joint confidence loss" in note
    assert "further network passes per image: ODIN" in note
    assert "several networks in training: Joint confidence loss" in note
    alike = one(records(("msp", "vim")), columns="auroc")
    assert not any("costs" in note for note in alike.notes)


def test_of_scores_from_elsewhere_no_costs_are_known() -> None:
    cells = [*records(("msp",)), *(cell("Mine", ood, 0.9, recipe="scores") for ood in SETS)]
    options = {"ood": "svhn", "group_means": "none"}
    table = one(cells, columns="data,passes,networks,auroc", **options)
    assert grid(table)["Mine"][:3] == ["?", "?", "?"]
    assert "?: not recorded" in next(note for note in table.notes if note.startswith("Data"))
    assert "Costs are not recorded in full: Mine." in one(cells, columns="auroc", **options).notes


def test_several_id_sets_with_the_same_columns_are_one_table_and_others_several() -> None:
    both = [*records(), *records(id_set="cifar100")]
    table = one(both, style="openood", part="main")
    assert [row.group for row in table.rows] == ["CIFAR-10"] * 4 + ["CIFAR-100"] * 4
    assert table.caption.startswith("OOD detection, ID: CIFAR-10 and CIFAR-100 (WRN-28-10).")
    other = [*records(), *(cell("msp", "isun", 0.9, id_set="svhn"), cell("vim", "isun", 0.8, id_set="svhn"))]
    tables = built(run_of(other), {"columns": "auroc"})
    assert [len(table.rows) for table in tables] == [4, 2]


def test_seeds_have_deviations_unless_they_are_not_wanted() -> None:
    three = records(seeds=3)
    table = one(three, columns="auroc", ood="svhn", group_means="none", decimals=2, detectors="msp,vim")
    assert grid(table) == {"MSP": ["80.10±0.10"], "ViM": ["86.10±0.10*"]}
    assert "Mean ± std over 3 seeds." in table.caption
    plain = one(three, columns="auroc", ood="svhn", group_means="none", std=False, detectors="msp,vim")
    assert grid(plain) == {"MSP": ["80.1"], "ViM": ["86.1*"]}
    assert "Mean over 3 seeds." in plain.caption
    single = one(records(), columns="auroc", std=True)
    assert all(not c.std for row in single.cells for c in row)


def test_extended_metrics_and_accuracy() -> None:
    cells = [
        cell("msp", "svhn", 0.8, extended={"ece": 0.05, "nll": 0.25, "tnr_at_tpr99": 0.4}),
        cell("vim", "svhn", 0.7, extended={"ece": 0.05, "nll": 0.25, "tnr_at_tpr99": 0.3}),
        cell("odin", "svhn", 0.7),
    ]
    table = one(cells, columns="id_accuracy,ece,nll,tnr_at_tpr99", group_means="none")
    assert [head.text for head in table.columns] == ["ID acc ↑", "ECE ↓", "NLL ↓", "SVHN"]
    assert grid(table)["MSP"] == ["95.0", "5.0", "0.250", "40.0*"]
    assert grid(table)["ODIN"] == ["95.0", DASH, DASH, DASH]


# Which is the best


@pytest.mark.parametrize(
    "values, lower, best, second",
    [
        ([3.0, 1.0, 2.0], False, {0}, {2}),
        ([3.0, 1.0, 2.0], True, {1}, {2}),
        ([3.0, 3.0, 2.0], False, {0, 1}, set()),  # two share the first place, so that none is second
        ([3.0, 2.0, 2.0], False, {0}, {1, 2}),
        ([3.0, 2.0], False, {0}, set()),
        ([2.0, 2.0, 2.0], False, set(), set()),
        ([3.0, 1.0], None, set(), set()),
    ],
)
def test_ranks(values: list[float], lower: bool | None, best: set[int], second: set[int]) -> None:
    found = ranked(dict(enumerate(values)), lower)
    assert [set(places) for places in found] == [best, second]


def test_ranks_are_of_printed_numbers_and_seen_cells_do_not_compete() -> None:
    cells = [cell("msp", "svhn", 0.9001), cell("odin", "svhn", 0.9004), cell("vim", "svhn", 0.8)]
    cells.append(cell("joint", "svhn", 0.99, seen=True, outlier_source=True))
    options = {"columns": "auroc", "group_means": "none", "underline": "second"}
    assert [*grid(one(cells, **options)).values()] == [["90.0*"], ["90.0*"], ["80.0"], ["99.0†"]]
    assert [*grid(one(cells, **options, decimals=2)).values()] == [["90.01_"], ["90.04*"], ["80.00"], ["99.00†"]]
    assert [*grid(one(cells, **options, marks="none", bold="none")).values()][3] == ["99.0"]
    table = one(cells, **options)
    assert "seen cells do not compete" in table.caption
    assert any(note.startswith("† seen: trained on outliers") and "Joint" in note for note in table.notes)


def test_all_marks(tmp_path: Path) -> None:
    cells = [
        *(cell("msp", "svhn", 0.4, seed) for seed in (0, 1)),  # under 50% on a far set
        cell("vim", "svhn", 0.9),  # one seed of two
    ]
    folder = tmp_path / "runs" / "made"
    names = [write_record(folder, one).name for one in cells]
    write_run_info(folder, {"name": "made", "seeds": [0, 1], "cells": names})
    judged = Judged("cifar10", "svhn", [0], ["msp", "vim"], ["vim"], [10, 10])
    stored = Stored(inputs_of(read_stored_run(folder).records), True, [judged])
    (folder / "best.json").write_text(to_json(dataclasses.asdict(stored)), encoding="utf-8")
    run = read_stored_run(folder)
    options = {"columns": "auroc", "group_means": "none", "std": False}
    (table,) = built(run, {**options, "marks": "all"})
    assert grid(table) == {"MSP": ["40.0¶"], "ViM": ["90.0*°‡"]}
    notes = " ".join(table.notes)
    assert "¶ Warning: AUROC under 50% on a far OOD set" in notes
    assert "° may be the best AUROC" in notes
    assert "‡ fewer than 2 seeds: ViM on SVHN" in notes
    (table,) = built(run, {**options, "marks": "seen"})
    assert grid(table) == {"MSP": ["40.0"], "ViM": ["90.0*"]}
    assert any("Fewer than 2 seeds: ViM on SVHN" in note for note in table.notes)  # said, if not marked


def test_what_is_missing_has_no_mean_and_its_reason_is_said() -> None:
    cells = records()
    cells[-1] = cell("joint", "textures", 0.5, metrics={}, status="failed", reason="out of\nmemory", intervals={})
    table = one(cells, columns="auroc")
    assert grid(table)["Joint confidence loss"] == ["89.0*", "90.0*", DASH, "90.0*", DASH]
    assert (
        f"{DASH} no number, and no mean that would need it: Joint confidence loss on Textures (failed: out of memory)."
        in table.notes
    )


def test_quick_looks_unfinished_runs_and_warnings_are_said() -> None:
    quick = "quick look, not the suite's protocol: trained on 5 images"
    cells = [cell("msp", "svhn", 0.8, notes=(quick,)), cell("vim", "svhn", 0.7)]
    info = {"notes": ["Warning: the sets differ.", "A note."]}
    run = StoredRun(Path("x"), {"name": "made", **info}, cells, {"bench run": 3})
    (table,) = built(run, {"columns": "auroc"})
    assert f"Q{quick[1:]}." in table.notes
    assert "Warning: the sets differ." in table.notes
    assert not any("A note" in note for note in table.notes)
    assert "3" in table.notes[0]
    assert "bench run" in table.notes[0]
    assert built(run, {"columns": "auroc", "notes": False})[0].notes == ()


# The conventions of FPR95


def test_two_conventions_of_fpr95_are_never_in_one_table() -> None:
    with pytest.raises(
        UserError, match=r"both called FPR95 and are not in one table\. Choose one of them for --columns"
    ):
        one(records(), columns="fpr95,openood_fpr95")
    with pytest.raises(UserError, match="both called FPR95"):
        one(records(), columns="openood_fpr95,auroc,fpr_at_tpr95", style="mos")


@pytest.mark.parametrize("form", ["text", "md", "csv", "html", "tex"])
@pytest.mark.parametrize(
    "style, heading, other", [("openood", "(OOD+)", "(ID+)"), ("mos", "(ID+)", "(OOD+)")], ids=["openood", "mos"]
)
@pytest.mark.parametrize("transpose", [False, True])
def test_the_convention_stands_in_the_heading(form: str, style: str, heading: str, other: str, transpose: bool) -> None:
    text = written(run_of(records()), form, {"style": style, "transpose": transpose}, width=300)
    assert heading in text
    assert other not in text
    words = "OOD is the positive class" if heading == "(OOD+)" else "ID is the positive class"
    assert (words in " ".join(text.split())) or form == "csv"


# Styles


def test_the_styles_are_data_and_all_of_them_work() -> None:
    assert set(style_names()) == {"lee2018", "openood", "mos"}
    for name in style_names():
        assert built(run_of(records()), {"style": name})
    lee = one(records(), style="lee2018")
    assert [head.text for head in lee.columns] == ["TNR95 ↑", "AUROC ↑", "DetAcc ↑", "AUPR-in ↑", "AUPR-out ↑"]
    main, appendix = built(run_of(records()), {"style": "openood"})
    assert [head.path for head in main.columns] == [
        "Near-OOD mean AUROC ↑", "Near-OOD mean FPR95 (OOD+) ↓",
        "Far-OOD mean AUROC ↑", "Far-OOD mean FPR95 (OOD+) ↓", "ID acc ↑",
    ]  # fmt: skip
    assert grid(main)["MSP"] == ["81.00", "9.50", "81.00", "9.50", "95.00"]
    assert len(appendix.columns) == 6
    mos = one(records(), style="mos")
    assert [head.path for head in mos.columns][:2] == ["SVHN FPR95 (ID+) ↓", "SVHN AUROC ↑"]
    assert [head.group for head in mos.columns][-1] == "Mean"


def test_a_style_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        '[[table]]\ncolumns = ["auroc", "data"]\ndetectors = ["vim", "msp"]\ndecimals = 3\n', encoding="utf-8"
    )
    (spec,) = read_style(str(path))
    assert (spec.columns, spec.detectors, spec.decimals) == (("auroc", "data"), ("vim", "msp"), 3)
    assert list(grid(one(records(), style=str(path)))) == ["ViM", "MSP"]
    assert list(grid(one(records(), style=str(path), detectors="msp"))) == ["MSP"]  # options come last


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "[[table]]\ncolumn = []\n",
            r"'column' in the style file '.*' is not a field of a table\. Did you mean 'columns'",
        ),
        ("[[table]]\ndecimals = 9\n", r"decimals = 9 in .*: expected a number from 0 to 6"),
        ("[[table]]\ndecimals = true\n", r"'decimals' in .* must be a whole number, got True"),
        ("[[table]]\nsets = 1\n", r"'sets' in .* must be true or false, got 1"),
        ("[[table]]\ncolumns = [1]\n", r"'columns' in .* must be a list of names, got \[1\]"),
        ("[[table]]\nbold = 'worst'\n", r"bold = 'worst' in .*: expected one of best, none"),
        ("[[table]]\ncolumns = ['data']\n", r"columns in .* has no metric"),
        ("[[table]]\ngroup_means = ['nearly']\n", r"'nearly' for group_means in .*: expected near, far, all, none"),
        ("[[table]]\ncolumns = ['accuracy']\n", r"may mean several metrics"),
        ("[[table]]\n[[table]]\n", r"Two tables of .* are called 'main'"),
        ("title = 'x'\n", r"describes no table"),
        ("other = 'x'\n[[table]]\n", r"'other' stands outside of \[\[table\]\]"),
        ("[[table]\n", r"is not valid TOML"),
    ],
)
def test_a_wrong_style_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_style(str(path))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"style": "openod"}, r"Unknown style 'openod'\. Did you mean 'openood'"),
        ({"style": "../styles/mos"}, r"Unknown style"),
        ({"style": "none.toml"}, r"The style file 'none\.toml' cannot be read: No such file"),
        ({"style": "openood", "part": "annex"}, r"no part 'annex' in the style 'openood'\. Choose main or appendix"),
        ({"detectors": "vmi"}, r"no detector 'vmi' to show\. Did you mean 'vim'"),
        ({"columns": "auroq"}, r"Unknown metric 'auroq'\. Did you mean 'auroc'"),
        ({"sort": "mid:auroc"}, r"'mid' is neither a group nor an OOD set shown"),
        ({"sort": "near:auroq"}, r"Unknown metric"),
        ({"sort": "near:aurc"}, r"No cell shown has 'aurc'\. Repeat .* with --metrics extended"),
        ({"columns": "auroc,aurc"}, r"No cell shown has 'aurc'\. Repeat .* with --metrics extended"),
        ({"columns": "lee2018_auroc"}, r"No cell shown has 'lee2018_auroc'\. Repeat .* with --metrics lee2018"),
        ({"columns": "stability_jpeg"}, r"No cell shown has 'stability_jpeg'\. Repeat .* without --no-stability"),
        ({"sets": False, "group_means": "none"}, r"neither OOD sets nor means"),
        ({"colour": True}, r"Unknown option 'colour' of a table\. Did you mean 'columns'"),
        ({"group_rows": "post-hoc"}, r"'post-hoc' for group_rows in the options: expected posthoc, trained"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        built(run_of(records()), options)
    assert specs_of({})[0].columns[0] == "tnr_at_tpr95"


def test_a_metric_that_needs_more_than_the_run_has_names_those_that_it_has() -> None:
    extended = [dataclasses.replace(record, extended={"ece": 0.1, "nll": 0.5}) for record in records()]
    with pytest.raises(UserError, match=r"No cell shown has 'fs_auroc'\. It needs .* lack\. Choose ece, nll\."):
        one(extended, columns="fs_auroc")
    assert list(grid(one(extended, columns="ece")).values()) == [["10.0"]] * len(NAMES)


def test_a_failed_run_keeps_its_table_whatever_is_asked_for() -> None:
    failed = [dataclasses.replace(record, status=FAILED, metrics={}, reason="no memory") for record in records()]
    table = one(failed, columns="auroc,aurc", sort="near:aurc")
    assert {text for row in grid(table).values() for text in row} == {DASH}


def test_a_run_without_records_has_no_table() -> None:
    with pytest.raises(UserError, match="has no records"):
        one([], columns="auroc")


# Pieces


def test_columns_and_rows_are_divided_between_groups_where_they_can_be() -> None:
    columns = tuple(Head(str(i), f"g{i // 2}") for i in range(6))
    rows = tuple(Head(f"r{i}", f"s{i // 3}") for i in range(9))
    table = PaperTable("t", "", "", rows, columns, tuple(tuple(Cell(f"{r}{c}") for c in range(6)) for r in range(9)))
    assert [[h.title for h in piece.columns] for piece in panels(table, 5, lambda _: 1.0)] == [
        ["0", "1", "2", "3"],
        ["4", "5"],
    ]
    assert [[h.title for h in piece.columns] for piece in panels(table, 1, lambda _: 1.0)] == [
        [str(i)] for i in range(6)
    ]
    assert panels(table, 9, lambda _: 1.0) == [table]
    # three rows and the two lines of a heading in each group
    assert [len(piece.rows) for piece in sheets(table, 12, lambda _: 1)] == [6, 3]
    assert [len(piece.rows) for piece in sheets(table, 4, lambda _: 1)] == [2, 1, 2, 1, 2, 1]
    assert [c.mean for c in sheets(table, 12, lambda _: 1)[1].cells[0]] == [f"6{c}" for c in range(6)]
    assert sheets(table, 99, lambda _: 1) == [table]


@pytest.mark.parametrize("width", [60, 100, 200])
def test_no_line_of_text_is_wider_than_the_terminal(width: int) -> None:
    text = written(run_of(records(seeds=3)), "text", {}, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("MSP") >= len(SETS) / width


# Hostile names


HOSTILE = [
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    r"\input{/etc/passwd}",
    "a}b{c%$&#_^~",
    "**x**|`y`",
    "@team \x1b[2J",
]


def hostile(**fields: Any) -> StoredRun:
    cells = [
        cell(name, ood, 0.5 + 0.1 * place, recipe="scores", backbone="", group="far", id_set="=1+1", **fields)
        for place, name in enumerate(HOSTILE)
        for ood in ("<b>bold", "-2+3")
    ]
    return run_of(cells, costs={})


class Tags(HTMLParser):
    """Collects tags, and the text between them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_escapes_names() -> None:
    page = Tags()
    page.feed(written(hostile(), "html", {"columns": "auroc"}))
    assert page.tags <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "b", "u", "i", "ul", "li"}
    assert HOSTILE[0] in page.text
    assert "\x1b" not in page.text


def test_csv_has_no_formulas() -> None:
    text = written(hostile(), "csv", {"columns": "auroc", "layout": "stacked"})
    fields = [field for row in csv.reader(io.StringIO(text)) for field in row]
    assert not [field for field in fields if field.startswith(("=", "+", "-", "@"))]
    assert "'=cmd|' /C calc'!A0" in fields
    assert safe("  =1") == "'  =1"
    assert safe("vim") == "vim"
    numbers = [row[-1] for row in csv.reader(io.StringIO(text))][1:]
    assert all(re.fullmatch(r"\d+\.\d", number) for number in numbers)


def test_markdown_escapes_names() -> None:
    text = written(hostile(), "md", {"columns": "auroc", "notes": False})
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1  # no name adds a column
    assert "<script>" not in text
    assert "@team" not in text
    assert r"\*\*x\*\*" in text
    assert r"\\input" in text


def test_labels_of_floats() -> None:
    def labels(**options: Any) -> list[str]:
        text = written(run_of(records()), "tex", options)
        return re.findall(r"\\label\{(.*?)\}", text)

    assert labels(style="mos", label="tbl:ours") == ["tbl:ours"]
    assert labels(style="openood", label="t") == ["t-main-cifar10", "t-appendix-cifar10"]
    assert labels(style="mos", label="}\\input{x") == ["-input-x"]
    assert labels(style="mos") == ["tab:main-cifar10"]


def test_latex_escapes_names() -> None:
    text = written(hostile(), "tex", {"columns": "auroc"})
    assert r"\input{/" not in text
    assert r"\textbackslash{}input\{/etc/passwd\}" in text
    assert r"a\}b\{c\%\$\&\#\_\textasciicircum{}\textasciitilde{}" in text
    plain = re.sub(r"\\[{}\\]", "", text)
    assert plain.count("{") == plain.count("}")


def test_bibtex_of_hostile_names_and_entries() -> None:
    described = {"detector": {"msp": {"display_name": "<b>", "paper": r"\input{x} } @misc{y,", "cite": ""}}}
    info = {"described": described, "references": {"k": "@misc{k, title = {\\input{x}}}"}}
    text = references(run_of(records(("msp",)), **info), {"detectors": "msp"})
    assert r"\input" not in text
    assert re.findall(r"(?m)^@\w+\{([^,]+),", text) == sorted(
        ["detector-msp", "krizhevsky2009cifar", "netzer2011svhn", "cimpoi2014dtd", "zagoruyko2016wrn"]
    )


def test_terminal_text_has_no_control_characters() -> None:
    assert "\x1b" not in written(hostile(), "text", {"columns": "auroc"})
    assert "\x1b[1m" in written(run_of(records()), "text", {"columns": "auroc"}, colour=True)


# Commands and Python


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "runs" / "made"
    names = [write_record(folder, one).name for one in records(seeds=2)]
    write_run_info(folder, {"name": "made", "seeds": [0, 1], "costs": COSTS, "cells": names})
    return folder


def test_the_command_prints_what_python_gives(stored: Path, tmp_path: Path) -> None:
    files = {path.name for path in stored.iterdir()}
    arguments = ["--style", "openood", "--part", "main", "--detectors", "vim,msp", "--sort", "near:auroc", "--no-std"]
    run = public(read_stored_run(stored))
    asked: dict[str, Any] = {
        "style": "openood",
        "part": "main",
        "detectors": "vim,msp",
        "sort": "near:auroc",
        "std": False,
    }
    forms: tuple[Format, ...] = ("md", "csv", "html", "tex")
    for form in forms:
        result = bench("table", stored, *arguments, "--format", form)
        assert result.exit_code == 0, result.output
        assert result.output == run.table(form, **asked)
    assert {path.name for path in stored.iterdir()} == files  # a table of a paper writes no files of the run
    frame = run.table(**asked)
    assert frame.loc[("", "ViM"), ("Near-OOD mean", "AUROC ↑")] == pytest.approx(87.05)
    assert bench("table", stored, *arguments).output.splitlines()[0].startswith("OOD detection, ID: CIFAR-10")


def test_references_are_those_of_what_is_shown(stored: Path, tmp_path: Path) -> None:
    bib = tmp_path / "refs.bib"
    result = bench("table", stored, "--detectors", "vim,msp", "--ood", "svhn", "--format", "tex", "--bib", bib)
    assert r"ViM~\cite{wang2022vim} &" in result.output
    keys = re.findall(r"(?m)^@\w+\{([^,]+),", bib.read_text(encoding="utf-8"))
    assert keys == ["hendrycks2017msp", "krizhevsky2009cifar", "netzer2011svhn", "wang2022vim", "zagoruyko2016wrn"]
    assert set(re.findall(r"\\cite\{([^}]+)\}", result.output)) == {"hendrycks2017msp", "wang2022vim"}
    assert bib.read_text(encoding="utf-8") == public(read_stored_run(stored)).references(
        detectors="vim,msp", ood="svhn"
    )
    plain = bench("table", stored, "--detectors", "vim", "--format", "tex", "--bib", bib, "--no-cite")
    assert r"\cite" not in plain.output


def test_ones_own_names(stored: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.toml"
    names.write_text(
        '[rows]\nvim = "Ours & more"\n[sets]\nsvhn = "Numbers"\n[cite]\nvim = "me2027"\n', encoding="utf-8"
    )
    text = bench("table", stored, "--names", names, "--format", "tex", "--cite", "--columns", "auroc").output
    assert r"Ours \& more~\cite{me2027} &" in text
    assert "Numbers" in text
    table = public(read_stored_run(stored)).table("csv", names={"vim": "Ours"}, detectors="Ours", columns="auroc")
    assert table.splitlines()[1].startswith("Ours,vim,")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--standalone"], "--standalone is for LaTeX alone. Add --format tex, or leave it out."),
        (["--format", "tex", "--standalone", "--fragment"], "--standalone and --fragment exclude each other."),
        (["--columns", "auroc", "--against", "lee2018"], "--against and --metrics print tables of their own."),
        (["--names", "none.toml"], "The file of names 'none.toml' cannot be read: No such file"),
        (["--columns", "fpr95,openood_fpr95"], "are both called FPR95"),
        (["--bib", "none/x.bib", "--detectors", "vim"], "'none/x.bib' cannot be written: No such file"),
        (["--bib", "none/x.bib", "--detectors", "vim"], "Choose a file in a writable folder with --bib."),
        (
            ["--sort", "near:aurc"],
            "No cell shown has 'aurc'. Repeat the command that made the run with --metrics extended",
        ),
    ],
)
def test_a_wrong_command_is_one_sentence_and_exit_code_2(stored: Path, arguments: list[str], message: str) -> None:
    result = bench("table", stored, *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_python_names_one_table_or_a_format(stored: Path) -> None:
    run = public(read_stored_run(stored))
    with pytest.raises(UserError, match=r"There are 2 tables .* Choose one with part or id_sets, or name a format"):
        run.table(style="openood")
    with pytest.raises(UserError, match="Unknown format 'pdf'"):
        run.table("pdf", style="mos")  # type: ignore[call-overload]


def test_no_torch_is_needed(stored: Path) -> None:
    code = (
        "import sys; from oodbench.benchmark.cli import main\n"
        f"try: main(['table', {str(stored)!r}, '--style', 'openood', '--format', 'tex'])\n"
        "except SystemExit as end: assert not end.code\n"
        "wrong = {'torch', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not wrong, wrong\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
