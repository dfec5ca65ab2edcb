"""Runs of the methods after the confidence loss: by their names, and other detectors on their recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.registry import registry
from tests.support import prepare_suite, run_suite, write_suite

pytestmark = pytest.mark.usefixtures("one_thread")

MATRIX = """
[[id]]
set = "digits[0-2]"
ood = [{ set = "glyphs", group = "near" }]
"""
WIDTHS = "".join(f"[recipes.{name}]\nwidth = 4\n" for name in ("gan", "joint", "gan_entropy", "cvae"))
ROWS = [
    "msp",
    *(row for name in ("ascood", "gan_entropy", "reject_class") for row in (name, f"knn@{name}")),
    "reject_class@reject_class[builds_on=gan]",
    "reject_class@reject_class[builds_on=cvae]",
]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_suite(tmp_path, MATRIX, backbone="small_cnn[width=4,hidden=16]", more=WIDTHS)


@pytest.mark.slow
def test_methods_by_name_and_neighbours_on_their_recipes(tmp_path: Path, suite: Path) -> None:
    run = run_suite(suite, ",".join(ROWS), results=tmp_path)
    assert [(record.label, record.reason) for record in run.records if record.status != "ok"] == []
    assert sorted(record.label for record in run.records) == sorted(ROWS)
    accuracy = {record.recipe: record.id_accuracy for record in run.records}
    assert accuracy.keys() == {"cross_entropy", "ascood", "gan_entropy", "reject_class"}


def test_without_the_reject_class_its_detector_is_refused(tmp_path: Path, suite: Path) -> None:
    with pytest.raises(UserError, match="output 'reject', which recipe 'cross_entropy' does not give"):
        prepare_suite(suite, "reject_class@cross_entropy", results=tmp_path)


def test_all_leaves_them_out() -> None:
    assert not any(registry.get("detector", name).in_all for name in ("ascood", "gan_entropy", "reject_class"))
