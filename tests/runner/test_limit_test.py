"""--limit-test: fewer test images of every set, marked as a quick look, never in a row with cells of all images."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark.api import Prepared
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.verify.repeat import EXACT, prepare_repetition
from oodbench.benchmark.verify.run import verify
from oodbench.benchmark.views.summary import summary_of
from oodbench.benchmark.views.tables import latex as table_latex
from oodbench.benchmark.views.tables import markdown as table_markdown
from oodbench.benchmark.views.tables import text as table_text
from tests.support import prepare_suite, run_suite, write_suite

MATRIX = """
[[id]]
set = "digits[0-3]"
ood = [{ set = "greek", group = "near" }, { set = "digits[4]", group = "far" }]
"""

SMALL: dict[str, Any] = {"backbone": "small_cnn[hidden=4,width=2]", "epochs": 1, "limit_train": 100}
NOTE = "quick look, not the suite's protocol: scored on at most {} test images of each set"

Prepare = Callable[..., Prepared]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_suite(tmp_path, MATRIX)


@pytest.fixture
def prepare_tiny(suite: Path) -> Prepare:
    return partial(prepare_suite, suite, **SMALL)


def scored(prepared: Prepared) -> list[tuple[int | None, int | None]]:
    return [(cell.record.n_id, cell.record.n_ood) for cell in prepared.plan.cells]


def test_every_set_is_limited(prepare_tiny: Prepare) -> None:
    (id_images, near), (_, far) = scored(prepare_tiny())
    assert None not in (id_images, near, far)
    assert min(id_images or 0, near or 0) > 60 > (far or 0) > 20
    assert scored(prepare_tiny(limit_test=20)) == [(20, 20), (20, 20)]
    assert scored(prepare_tiny(limit_test=60)) == [(60, 60), (60, far)]


def test_a_limit_is_part_of_a_cells_key_and_of_no_training(prepare_tiny: Prepare) -> None:
    whole, limited = prepare_tiny(), prepare_tiny(limit_test=20)
    assert {c.checkpoint for c in whole.plan.cells} == {c.checkpoint for c in limited.plan.cells}
    for one, other in zip(whole.plan.cells, limited.plan.cells, strict=True):
        assert one.ood_scores != other.ood_scores
        assert one.record.origin["row"] != other.record.origin["row"]


def test_sets_below_the_limit_share_their_scores_and_no_row(prepare_tiny: Prepare) -> None:
    whole, limited = prepare_tiny(), prepare_tiny(limit_test=10**6)
    assert [c.scores for c in whole.plan.cells] == [c.scores for c in limited.plan.cells]
    rows = [{cell.record.origin["row"] for cell in one.plan.cells} for one in (whole, limited)]
    assert rows[0].isdisjoint(rows[1])


def test_the_images_are_spread_over_the_stored_order(tmp_path: Path) -> None:
    library, spec = Library(tmp_path), parse_set("digits")
    for part in ("test", "scored"):
        whole, some = library.part(spec, part), library.part(spec, part, 40)
        assert np.array_equal(some.images, whole.images[np.arange(40) * len(whole) // 40])
    assert library.part(spec, "train", 40).checksum != library.part(spec, "test", 40).checksum


@pytest.mark.slow
def test_the_changed_images_are_those_of_the_scored_ones(prepare_tiny: Prepare) -> None:
    run = prepare_tiny(limit_test=30, stability=True).start()
    library = Library(run.path)
    spec = parse_set("digits[0-3]")
    assert len(library.part(spec, "changed", 30)) == 5 * 30 < len(library.part(spec, "changed"))
    assert all(record.stability for record in run.records)


def test_of_images_held_out_for_detectors_none_is_scored(prepare_tiny: Prepare) -> None:
    """Half of the test split serves the detectors; of the other half, 20 images are scored, as they are and changed."""
    prepared = prepare_tiny(limit_test=20, fit_from=0.5, stability=True)
    assert scored(prepared) == [(20, 20), (20, 20)]
    library = prepared.context.library
    (half, some), (changed, few) = (
        (library.part(parse_set("digits[0-3]"), part), library.part(parse_set("digits[0-3]"), part, 20))
        for part in ("scored, 0.5 of test held out", "changed, 0.5 of test held out")
    )
    assert np.array_equal(some.images, half.images[np.arange(20) * len(half) // 20])
    assert len(few) == 5 * 20 < len(changed)


@pytest.mark.usefixtures("drawn")
def test_every_view_marks_it(prepare_tiny: Prepare) -> None:
    run: StoredRun = prepare_tiny(limit_test=20).start()
    for text in (
        table_markdown.table_markdown(run),
        table_text.text_table(run),
        (run.path / "records.csv").read_text(),
        table_latex.table_latex(run).replace("\\'", "'"),
    ):
        assert NOTE.format(20) in " ".join(text.split())
    pictures = [path.read_text() for path in (run.path / "plots").glob("*.svg")]
    assert pictures
    lines = re.compile(r"\s*-->.*?<!--\s*", re.DOTALL)  # texts are comments beside their outlines, folded to the width
    for picture in pictures:
        assert "test images left out" in lines.sub(" ", picture)


def test_a_quick_look_is_a_row_of_its_own(suite: Path) -> None:
    run_suite(suite, **SMALL)
    run = run_suite(suite, add=True, limit_test=10**6, ood_sets="greek", **SMALL)
    (block,) = summary_of(run).blocks
    assert [row.label for row in block.rows] == ["msp", "msp (limit_test=1000000)"]


@pytest.mark.slow
def test_a_repetition_and_a_verification_take_the_same_images(suite: Path) -> None:
    run = run_suite(suite, limit_test=20, **SMALL)
    repetition = prepare_repetition(run.path)
    for prepared in repetition.commands():
        assert {n for pair in scored(prepared) for n in pair} == {20}
        prepared.start()
    assert {cell.verdict for cell in repetition.compare().cells} == {EXACT}
    assert verify(run.path, suite.parent / "results", suite.parent).problems == []


def test_a_negative_limit_is_refused(prepare_tiny: Prepare) -> None:
    with pytest.raises(UserError, match="limit_test must be a whole number from 1, or 0"):
        prepare_tiny(limit_test=-1)
