"""What papers call rows and sets and what they cite, and what rows cost, from records and run.json alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.costs import Costs, cost_lines, costs_of
from oodbench.benchmark.views.marks import DASH
from oodbench.benchmark.views.names import NO_NAMES, OwnNames, display_names, read_names

ENTRY = "@misc{me2027,\n  title = {Mine}\n}"
INFO = {
    "described": {
        "detector": {"alpha": {"display_name": "A-LPHA", "title": "Alpha", "paper": "", "cite": "me2027"}},
        "recipe": {"own": {"display_name": "Own", "title": "", "paper": "They, A paper, 2020", "cite": ""}},
    },
    "references": {"me2027": ENTRY, "bad": r"@misc{bad, title={\input{x}}}"},
    "costs": {"alpha": {"kind": "posthoc", "passes": [2, 3], "networks": 1}},
}


def row(label: str, detector: str = "", **fields: Any) -> Record:
    values: dict[str, Any] = {
        "id_set": "digits[0-6]", "ood_set": "svhn", "group": "far", "outlier_source": False, "seen": False,
        "detector": detector or label, "settings": {}, "recipe": "plain", "recipe_settings": {}, "backbone": "wrn",
        "seed": 0, "label": label, "status": "ok",
    }  # fmt: skip
    return Record(**{**values, **fields})


def run_of(*records: Record, **info: Any) -> StoredRun:
    return StoredRun(Path("nowhere"), {**INFO, **info}, list(records))


@pytest.mark.parametrize(
    "record, name",
    [
        (row("alpha"), "A-LPHA"),
        (row("alpha[k=5,t=0.1]@own[beta=2]", "alpha"), "A-LPHA (k=5, t=0.1) + Own (beta=2)"),
        (row("vim"), "ViM"),  # not in run.json, as in older runs: what the built-in plug-in declares
        (row("alpha (epochs=2)", "alpha", origin={"names": {"label": "alpha"}}), "A-LPHA (epochs=2)"),
        (row("My method [a]", "My method [a]", recipe="scores"), "My method [a]"),
        (row("nobody_knows"), "nobody_knows"),
    ],
)
def test_names_of_rows(record: Record, name: str) -> None:
    assert display_names(run_of(record)).row(record.label) == name


def test_rows_that_would_have_the_same_name_keep_their_labels() -> None:
    own = OwnNames(rows={"alpha": "Same", "beta": "Same"})
    names = display_names(run_of(row("alpha"), row("beta"), row("vim")), own)
    assert [names.row(label) for label in ("alpha", "beta", "vim")] == ["alpha", "beta", "ViM"]


def test_names_of_sets() -> None:
    sets = ["svhn", "cifar100-openood10", "digits[7-9]+inverted", "Mine & yours", "cifar10 (3fa2b1)"]
    records = [row("alpha", ood_set=one) for one in sets]
    records[-1] = row("alpha", ood_set=sets[-1], origin={"names": {"ood_set": "cifar10"}})
    names = display_names(run_of(*records))
    assert [names.set(one) for one in ["digits[0-6]", *sets]] == [
        "Digits 0-6", "SVHN", "CIFAR-100", "Digits 7-9 (inverted)", "Mine & yours", "CIFAR-10 (3fa2b1)",
    ]  # fmt: skip


def test_sets_of_one_id_set_are_told_apart_and_those_of_several_share_names() -> None:
    one = [row("alpha", ood_set="svhn"), row("alpha", ood_set="svhn-openood")]
    names = display_names(run_of(*one))
    assert [names.set(name) for name in ("svhn", "svhn-openood")] == ["svhn", "svhn-openood"]
    two = [row("alpha", ood_set="svhn"), row("alpha", id_set="cifar10", ood_set="svhn-openood")]
    names = display_names(run_of(*two))
    assert [names.set(name) for name in ("svhn", "svhn-openood")] == ["SVHN", "SVHN"]


def test_the_users_names_come_first() -> None:
    own = OwnNames({"alpha": "Ours", "odin[t=2]": "ODIN2"}, {"own": "O."}, {"digits[0-6]": "D"}, {"vim": "x2020"})
    labels = [row("alpha@own", "alpha"), row("odin[t=2]", "odin"), row("vim")]
    names = display_names(run_of(*labels), own)
    assert [names.row(r.label) for r in labels] == ["Ours + O.", "ODIN2", "ViM"]
    assert names.set("digits[0-6]") == "D"
    assert names.cite("vim") == ("x2020",)


def test_citations() -> None:
    names = display_names(run_of(row("alpha@own", "alpha"), row("vim"), row("Mine", recipe="scores"), row("random")))
    assert names.cite("random") == ()
    assert names.cite("alpha@own") == ("me2027", "recipe-own")
    assert names.cite("vim") == ("wang2022vim",)
    assert names.cite("Mine") == ()
    assert names.cite("wrn") == ("zagoruyko2016wrn",)
    text = names.bibtex(["vim", "alpha@own", "svhn", "Mine"])
    assert [line for line in text.splitlines() if line.startswith("@")] == [
        "@misc{me2027,",
        "@inproceedings{netzer2011svhn,",
        "@misc{recipe-own,",  # of a plug-in that names its paper without BibTeX
        "@inproceedings{wang2022vim,",
    ]
    assert "They, A paper, 2020" in text
    assert "bad" not in names.entries
    assert names.bibtex(["Mine"]) == ""


# names.toml


def test_a_file_of_names(tmp_path: Path) -> None:
    path = tmp_path / "names.toml"
    path.write_text(
        '[rows]\nalpha = "Ours"\n"odin[t=2]" = "X"\n[sets]\nsvhn = "House numbers"\n[cite]\nalpha = "a2020, b:2021"\n',
        encoding="utf-8",
    )
    assert read_names(path) == OwnNames(
        {"alpha": "Ours", "odin[t=2]": "X"}, {}, {"svhn": "House numbers"}, {"alpha": "a2020, b:2021"}
    )
    path.write_text(f"bibtex = '''{ENTRY}'''\n", encoding="utf-8")
    assert read_names(path).entries == {"me2027": ENTRY}
    path.write_text("", encoding="utf-8")
    assert read_names(path) == NO_NAMES


@pytest.mark.parametrize(
    "text, message",
    [
        ('[row]\na = "b"\n', r"unknown table \[row\]\. Did you mean 'rows'\?"),
        ("[rows]\na = 1\n", r"\[rows\] of the file of names '.*' must hold lines of the form"),
        ('[cite]\na = "{x}"\n', r"'\{x\}', for 'a' in \[cite\] of '.*', is no key that BibTeX accepts"),
        ("[rows\n", "is not valid TOML"),
        ('rows = "a"\n', r"\[rows\] of the file of names"),
    ],
)
def test_a_wrong_file_of_names_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "names.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_names(path)
    with pytest.raises(UserError, match=r"cannot be read: No such file"):
        read_names(tmp_path / "none.toml")


# Costs


def used(*uses: tuple[str, str]) -> dict[str, Any]:
    return {"data": [{"use": use, "set": name, "part": "p", "images": 1, "sha256": ""} for use, name in uses]}


TRAIN = ("train", "digits[0-6]")


@pytest.mark.parametrize(
    "uses, tuned, data",
    [
        ([TRAIN], {}, ()),
        ([TRAIN, ("fit", "digits[0-6]")], {}, ("ID",)),
        ([TRAIN, ("fit", "digits[0-6]"), ("fit", "glyphs")], {}, ("ID", "outliers")),
        ([TRAIN, ("train on outliers", "glyphs")], {}, ("outliers",)),
        ([TRAIN, ("tune", "digits[0-6]"), ("tune on OOD", "glyphs")], {"own_source": False}, ("tuned on OOD",)),
        ([TRAIN, ("tune", "digits[0-6]"), ("tune on OOD", "svhn")], {"own_source": True}, ("tuned on this OOD",)),
        ([], {}, None),
    ],
)
def test_what_a_row_was_given(uses: list[tuple[str, str]], tuned: dict[str, Any], data: tuple[str, ...] | None) -> None:
    record = row("alpha", provenance=used(*uses), tuned=tuned)
    assert costs_of(run_of(record))["alpha"].data == data


def test_everything_that_any_cell_was_given_counts() -> None:
    cells = [
        row("alpha", provenance=used(TRAIN), ood_set="a"),
        row("alpha", provenance=used(TRAIN, ("tune on OOD", "x")), ood_set="b"),
        row("alpha", status="failed", ood_set="c"),
    ]
    assert costs_of(run_of(*cells))["alpha"].data == ("tuned on OOD",)


def test_costs_as_they_are_printed() -> None:
    known = costs_of(run_of(row("alpha", provenance=used(TRAIN)), row("beta", recipe="beta"), row("vim@own", "vim")))
    assert known["alpha"] == Costs("posthoc", (), (2, 3), 1)
    assert (known["alpha"].data_text, known["alpha"].passes_text, known["alpha"].networks_text) == (DASH, "1+2..3", "1")
    assert (known["beta"].data_text, known["beta"].passes_text, known["beta"].networks_text) == ("?", "?", "?")
    assert [known[label].kind for label in ("beta", "vim@own")] == ["trained", "trained"]  # from their recipes
    assert Costs("posthoc", ("ID", "outliers"), (0, 0), 3).passes_text == "1"
    assert Costs("posthoc", ("ID", "outliers"), (2, 2), 3).passes_text == "1+2"
    assert cost_lines([Costs("posthoc", ("outliers",), None, None)])[0].endswith(
        "; outliers: OOD images in training or fitting"
    )
