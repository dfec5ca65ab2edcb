"""Which records of a run share a row and a mean, and how rows and columns of the same name are labelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from oodbench.benchmark.records.record import FAILED, SKIPPED, Record
from oodbench.benchmark.records.row_labels import label_rows
from oodbench.benchmark.records.rows import own_name, own_set, tell_apart, unlike
from oodbench.benchmark.store.schema import Origin

IMAGES = {"part": "test", "images": 100, "checksum": "aa" * 32, "groups": ""}


def made(ood_set: str = "glyphs", seed: int = 0, row: str = "r", **more: Any) -> Record:
    """A cell that was made by `row`; with `origin` or other fields of a record."""
    origin: Origin = {"row": row, "cell": f"{row} {ood_set}", "facts": {"schedule epochs": len(row)}}
    fields: dict[str, Any] = {
        "id_set": "digits", "group": "", "outlier_source": False, "seen": False, "detector": "msp", "settings": {},
        "recipe": "plain", "recipe_settings": {}, "backbone": "net", "label": "msp",
    }  # fmt: skip
    return Record(ood_set=ood_set, seed=seed, **{**fields, "origin": {**origin, **more.pop("origin", {})}, **more})


def labels(*records: Record) -> list[str]:
    return [record.label for record in tell_apart(records, ())[0]]


def on(side: str, **changed: Any) -> dict[str, Any]:
    """An origin with other scored images."""
    return {"images": {"id": dict(IMAGES), "ood": dict(IMAGES), side: {**IMAGES, **changed}}}


def test_like_cells_keep_their_names() -> None:
    records = [made(seed=0), made(seed=1), made("greek", seed=0)]
    told, pairs = tell_apart(records, [{"id_set": "digits", "ood_set": "glyphs"}])
    assert told == records
    assert pairs == [{"id_set": "digits", "ood_set": "glyphs"}]


def test_unlike_rows_have_a_fact_in_their_labels() -> None:
    assert labels(made(seed=0), made(seed=1, row="rr")) == ["msp (epochs=1)", "msp (epochs=2)"]
    assert labels(made(seed=0), made("greek", seed=0, row="rr")) == ["msp (epochs=1)", "msp (epochs=2)"]


def test_rows_on_other_id_sets_do_not_collide() -> None:
    assert labels(made(), made(row="rr", id_set="letters")) == ["msp", "msp"]


def test_a_label_is_the_same_on_every_id_set() -> None:
    records = [made(), made(row="rr"), made(row="rr", id_set="letters")]
    assert labels(*records) == ["msp (epochs=1)", "msp (epochs=2)", "msp (epochs=2)"]


def test_the_backbone_comes_first() -> None:
    records = [made(), made(row="rr"), made(backbone="wide"), made(backbone="")]
    assert labels(*records) == ["msp (net; epochs=1)", "msp (net; epochs=2)", "msp (wide)", "msp"]


def test_a_cell_that_was_tuned_otherwise_is_not_averaged() -> None:
    """A row is what its cells have in common; a choice of settings may differ from cell to cell, not in a cell."""
    one, other = made(seed=0), made(seed=1, origin={"cell": "tuned on other images"})
    assert labels(one, other) == ["msp", "msp (2)"]
    assert labels(one, replace(other, ood_set="greek")) == ["msp", "msp"]


def test_metrics_that_only_some_cells_have_must_be_alike_among_those() -> None:
    asked = [{"asked": {"extended": value}} if value else {} for value in ("", "x", "y")]
    without, one, other = (made(seed=seed, origin=origin) for seed, origin in enumerate(asked))
    assert labels(without, one) == ["msp", "msp"]
    assert len(set(labels(without, one, other))) == 2


def test_cells_without_numbers_join_the_row_that_lacks_them() -> None:
    skipped = replace(made("greek"), status=SKIPPED, origin={"shown": {"suite": "tiny"}})
    failed = replace(made(seed=2), status=FAILED)
    assert labels(made(seed=0), skipped, failed) == ["msp"] * 3
    assert labels(skipped, made("greek")) == ["msp", "msp (epochs=1)"]


def test_two_cells_of_one_seed_are_two_rows() -> None:
    assert labels(made(), made()) == ["msp", "msp (2)"]


EPOCHS, VERSION = "schedule epochs", "detector version"
ROWS: list[tuple[list[dict[str, Any]], list[str]]] = [
    ([{EPOCHS: 1, "schedule decay": 1}, {EPOCHS: 1, "schedule decay": 2}], ["decay=1", "decay=2"]),
    ([{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 1}], ["a=1; b=1", "a=1; b=2", "a=2; b=1"]),
    ([{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 3}], ["b=1", "b=2", "b=3"]),
    ([{"file": "a.pth", "path": "x/a.pth"}, {"file": "b.pth", "path": "x/b.pth"}], ["a.pth", "b.pth"]),
    ([{"file": "a.pth", "path": "x/a.pth"}, {"file": "a.pth", "path": "y/a.pth"}], ["x/a.pth", "y/a.pth"]),
    ([{"path": "x/a", "bytes": "ab" * 32}, {"path": "x/a", "bytes": "cd" * 32}], ["bytes=ababab", "bytes=cdcdcd"]),
    ([{VERSION: "ab" * 32, "suite": "one"}, {VERSION: "cd" * 32, "suite": "two"}], ["source=ababab", "source=cdcdcd"]),
    ([{"suite": "one"}, {"suite": "two"}], ["suite=one", "suite=two"]),
    ([{"threads": 2}, {"threads": 4, "suite": "x"}], ["threads=2", "threads=4"]),
    ([{"limit_train": "40", "train": "ab" * 32}, {"train": "cd" * 32}], ["limit_train=40", ""]),
    ([{"recipe name": "a", "recipe settings beta": 1}, {"recipe name": "b"}], ["recipe=a", "recipe=b"]),
    ([{"a": 1}, {"a": 1}], ["", "2"]),
]  # fmt: skip


@pytest.mark.parametrize("facts, expected", ROWS)
def test_labels_name_the_fewest_facts(facts: list[Mapping[str, Any]], expected: list[str]) -> None:
    assert label_rows([(made(), one) for one in facts]) == [f"msp ({text})" if text else "msp" for text in expected]


CHANGES: list[tuple[dict[str, Any], list[str]]] = [
    ({"images": 90, "checksum": "bb" * 32}, ["100 images", "90 images"]),
    ({"part": "scored", "checksum": "bb" * 32}, ["part test", "part scored"]),
    ({"checksum": "bb" * 32}, ["images aaaaaa", "images bbbbbb"]),
    ({"groups": "cc" * 32}, ["groups none", "groups cccccc"]),
]


@pytest.mark.parametrize("changed, expected", CHANGES)
@pytest.mark.parametrize("side, name", [("id", "digits"), ("ood", "glyphs")])
def test_unlike_images_of_one_name_have_other_names(
    side: str, name: str, changed: dict[str, Any], expected: list[str]
) -> None:
    origins = [on(side), on(side, **changed)]
    records = [made(seed=0, origin=origin) for origin in origins]
    pairs = [{"id_set": "digits", "ood_set": "glyphs", "scored": origin["images"]} for origin in origins]
    told, named = tell_apart([*records, made(seed=1)], pairs)
    names = [f"{name} ({text})" for text in expected]
    assert [getattr(record, f"{side}_set") for record in told] == [*names, names[0]]
    assert [pair[f"{side}_set"] for pair in named] == names
    assert [record.label for record in told] == ["msp"] * 3
    assert [own_name(record, f"{side}_set") for record in told] == [name] * 3
    assert [own_set(record, getattr(record, f"{side}_set")) for record in told] == [name] * 3
    assert own_set(told[0], "greek") == "greek"


def test_unlike_names_what_labels_join() -> None:
    cases = {
        "its row joins cells that were not made alike": (made(seed=0), made(seed=1, row="rr")),
        "its mean joins cells that differ in more than the seed": (made(seed=0), made(seed=1, origin={"cell": "x"})),
        "its row has two cells of one seed": (made(), made()),
    }
    for problem, (one, other) in cases.items():
        assert list(unlike([one, other])) == [f"digits/glyphs/msp/{other.seed}: {problem}"]
        assert not list(unlike(tell_apart([one, other], ())[0]))
    assert not list(unlike([made(seed=0), made(seed=1), made("greek"), made(row="rr", label="other")]))


def test_records_of_older_versions_are_joined_by_what_they_say() -> None:
    """They have no origin; their training and what their provenance resolved stand in for it."""
    older = [replace(made(seed=seed), origin=Origin(), training={"epochs": 5}) for seed in (0, 1)]
    assert labels(*older) == ["msp", "msp"]
    assert labels(older[0], replace(older[1], training={"epochs": 2})) == ["msp (epochs=5)", "msp (epochs=2)"]
    other = replace(older[1], provenance={"resolved": {"detector": {"version": "x"}, "rules": []}})
    assert len(set(labels(older[0], other))) == 2
    asked = [
        replace(one, provenance={"resolved": {"rules": rules}}) for one, rules in zip(older, ([], ["x"]), strict=True)
    ]
    assert labels(*asked) == ["msp", "msp"]
    assert labels(older[0], made(seed=1)) == ["msp (older version)", "msp"]
