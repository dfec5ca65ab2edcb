"""`comparisons/best_set.py`: which detectors may be the best is judged once, as `bench compare` does, and stored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark.comparisons import best_set
from oodbench.benchmark.comparisons.compare import compare
from oodbench.benchmark.comparisons.scored_images import ScoredImages
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.best import read_best
from oodbench.benchmark.records.run import read_stored_run
from oodbench.benchmark.views.tables.text import text_table
from tests.support import run_suite, write_suite

MATRIX = """
[[id]]
set = "digits[0-1]"
outliers = "glyphs"
ood = [{ set = "greek" }, { set = "uniform" }, { set = "glyphs" }]
"""
DETECTORS = "msp,energy,knn[k=3],msp@confidence"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite and a finished run of two seeds."""
    folder = tmp_path_factory.mktemp("best")
    run_suite(write_suite(folder, MATRIX), DETECTORS, results=folder, seeds=2)
    return folder


@pytest.fixture
def place(whole: Path, tmp_path: Path) -> Path:
    copy: Path = shutil.copytree(whole, tmp_path / "copy")
    return copy


def stored_judgement(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "runs/tiny/best.json").read_text())
    return content


@pytest.mark.slow
def test_it_agrees_with_bench_compare(whole: Path) -> None:
    run = read_stored_run(whole / "runs/tiny")
    library = Library(whole, whole / "cache/data")
    found = compare(run, whole / "cache", images=ScoredImages(library))
    judgements = read_best(run)
    assert len(judgements) == len(found.columns) == 3
    for column in found.columns:
        judged = judgements[column.id_set, column.ood_set]
        assert set(judged.may_be_best) == column.best_set
        assert tuple(judged.compete) == column.labels
        assert list(judged.seeds) == [0, 1]
    groups = library.part(parse_set("digits[0-1]"), "test").groups
    assert groups is not None
    assert judgements["digits[0-1]", "greek"].units[0] == len(set(groups.tolist())) < 20
    assert judgements["digits[0-1]", "uniform"].units[1] == 1000
    # Trained on outliers of this set's own distribution, so it does not compete.
    assert "msp@confidence" not in judgements["digits[0-1]", "glyphs"].compete


def test_it_is_judged_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (place / "runs/tiny/best.json").read_bytes()
    monkeypatch.setattr(best_set, "judge_best", lambda *_: pytest.fail("judged again"))
    run_suite(place / "tiny.toml", DETECTORS, results=place, seeds=2)
    assert (place / "runs/tiny/best.json").read_bytes() == before


def test_other_cells_are_judged_again(place: Path) -> None:
    before = stored_judgement(place)
    run = run_suite(place / "tiny.toml", DETECTORS, results=place, seeds=1, only=True)
    assert stored_judgement(place)["inputs"] != before["inputs"]
    assert {tuple(column["seeds"]) for column in stored_judgement(place)["columns"]} == {(0,)}
    assert set(read_best(run)) == {("digits[0-1]", name) for name in ("greek", "uniform", "glyphs")}
    run_suite(place / "tiny.toml", DETECTORS, results=place, seeds=2)
    assert stored_judgement(place) == before


def test_a_damaged_judgement_is_replaced(place: Path) -> None:
    before, path = stored_judgement(place), place / "runs/tiny/best.json"
    table = (place / "runs/tiny/table.md").read_bytes()
    assert "°".encode() in table
    for content in (b"", b"[", json.dumps({**before, "columns": [{"id_set": "x"}]}).encode()):
        path.write_bytes(content)
        assert read_best(read_stored_run(place / "runs/tiny")) == {}
        run_suite(place / "tiny.toml", DETECTORS, results=place, seeds=2)
        assert stored_judgement(place) == before
        assert (place / "runs/tiny/table.md").read_bytes() == table


def test_one_detector_is_not_judged(tmp_path: Path, whole: Path) -> None:
    run = run_suite(whole / "tiny.toml", "msp", results=tmp_path, ood_sets="greek")
    assert stored_judgement(tmp_path)["columns"] == []
    assert "°" not in text_table(run)


def test_missing_scores_leave_a_column_out_until_they_are_back(place: Path, whole: Path) -> None:
    run, images = read_stored_run(place / "runs/tiny"), ScoredImages(Library(place))
    before = stored_judgement(place)
    record = next(r for r in run.records if (r.label, r.ood_set, r.seed) == ("energy", "greek", 1))
    gone = place / "cache" / record.artifacts["ood_scores"]
    gone.unlink()
    (run.path / "best.json").unlink()
    best_set.update_best(run, place / "cache", images)
    assert {column["ood_set"] for column in stored_judgement(place)["columns"]} == {"uniform", "glyphs"}
    assert "Not judged: digits[0-1] against greek." in " ".join(text_table(run, 400).split())
    shutil.copy(whole / "cache" / record.artifacts["ood_scores"], gone)
    best_set.update_best(run, place / "cache", images)
    assert stored_judgement(place) == before
