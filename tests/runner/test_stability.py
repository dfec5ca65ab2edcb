"""Stability from plan to table: slightly changed ID test images are scored, shown and verified, and fail nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oodbench.benchmark import Batch, Detector
from oodbench.benchmark.data import library
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.metrics.names import STABILITY
from oodbench.benchmark.metrics.stability import changed_rows
from oodbench.benchmark.plan.jobs import ExtractJob, ScoreJob
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.prune import prune
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.views.guards.stability import stability_lines
from oodbench.benchmark.views.summary import summary_of
from oodbench.benchmark.views.tables.text import text_table
from tests.stages.planted_sets import register_planted
from tests.support import bench, csv_rows, prepare_suite, run_suite, tables_of, write_suite

MATRIX = """
[[id]]
set = "planted"
ood = [{ set = "planted-near", group = "near" }, { set = "planted-far", group = "far" }]
"""


def redness(batch: Batch) -> torch.Tensor:
    """Mean red minus mean blue, in grey levels: within about 5 of 0 for the noise of the sets, 26 for a tint."""
    return 255 * (batch.images[:, 0] - batch.images[:, -1]).mean(dim=(1, 2))


class ReadsColour(Detector):
    """Scores the difference between red and blue."""

    name = "test_colour"
    version = "1"
    needs = frozenset({"images"})

    def score(self, batch: Batch) -> torch.Tensor:
        return redness(batch)


class ReadsBrightness(Detector):
    """Scores the mean of all pixels, in grey levels."""

    name = "test_brightness"
    version = "1"
    needs = frozenset({"images"})

    def score(self, batch: Batch) -> torch.Tensor:
        return 255 * batch.images.mean(dim=(1, 2, 3))


class Unmoved(Detector):
    """The same score for every image."""

    name = "test_unmoved"
    version = "1"
    needs = frozenset({"logits"})

    def score(self, batch: Batch) -> torch.Tensor:
        return torch.zeros(len(batch.logits))


class RefusesTint(Detector):
    """Fails on tinted images, which only the set of changed images has."""

    name = "test_untinted"
    version = "1"
    needs = frozenset({"images"})
    calls = 0

    def score(self, batch: Batch) -> torch.Tensor:
        type(self).calls += 1
        if (redness(batch) > 15).any():
            raise ValueError("tints are not for me")
        return batch.images.mean(dim=(1, 2, 3))


@pytest.fixture(autouse=True)
def plugins(register: Any) -> None:
    register_planted(register, (3, 32, 32))
    for plugin in (ReadsColour, ReadsBrightness, Unmoved, RefusesTint):
        register(plugin.name, plugin)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_suite(tmp_path, MATRIX)


def lines_of(run: StoredRun) -> str:
    return " ".join(stability_lines(summary_of(run)))


def test_a_detector_that_reads_a_colour_cue_is_named_and_a_constant_one_is_not(suite: Path) -> None:
    run = run_suite(suite, "test_colour,test_unmoved", stability=True)
    found = {record.label: record.stability for record in run.records}
    assert found["test_colour"]["tint"] == 1.0
    assert found["test_unmoved"] == dict.fromkeys(STABILITY, 0.5)
    for text in (" ".join(text_table(run, 120).split()), (run.path / "table.md").read_text().replace("\\", "")):
        assert "Stability on planted: tint: test_colour 100.0 (worst), median 75.0; one grey level" in text
        assert "Warning: scores that notice slight changes on planted" in text
    _, _, warned = lines_of(run).partition("Warning: ")
    assert "test_colour (tint 100.0" in warned
    assert "test_unmoved" not in warned


def test_numbers_are_those_of_scoring_the_changed_images_alone(suite: Path, tmp_path: Path) -> None:
    run = run_suite(suite, "test_colour", stability=True)
    record = run.records[0]
    cache = tmp_path / "results" / "cache"
    id_scores, changed = (np.load(cache / record.artifacts[which]) for which in ("id_scores", "changed_scores"))
    images = Library(tmp_path).part(parse_set("planted"), "changed").images.astype(np.float64)
    assert changed == pytest.approx((images[:, 0] - images[:, -1]).mean(axis=(1, 2)), abs=1e-3)
    unchanged = id_scores[changed_rows(len(id_scores))]
    for name, scores in zip(STABILITY, changed.reshape(len(STABILITY), -1), strict=True):
        area = np.mean(scores[:, None] > unchanged) + np.mean(scores[:, None] == unchanged) / 2
        assert record.stability[name] == pytest.approx(float(area), abs=1e-12)
    rows = csv_rows((run.path / "records.csv").read_text())
    assert [float(row["stability_tint"]) for row in rows] == [record.stability["tint"]] * len(run.records)


def test_a_grey_network_is_shown_the_changes_as_luma(register: Any, tmp_path: Path) -> None:
    register_planted(register, (1, 32, 32))
    run = run_suite(write_suite(tmp_path, MATRIX, name="grey"), "test_brightness", stability=True)
    record = run.records[0]
    assert (record.status, record.notes) == (OK, ())
    cache = tmp_path / "results" / "cache"
    id_scores, changed = (np.load(cache / record.artifacts[which]) for which in ("id_scores", "changed_scores"))
    moved = changed.reshape(len(STABILITY), -1) - id_scores[changed_rows(len(id_scores))]
    by_change = dict(zip(STABILITY, moved, strict=True))
    assert by_change["tint"] == pytest.approx(2, abs=0.2), "less where a pixel is nearly black or white"
    assert by_change["brighter"] == pytest.approx(1, abs=0.05)
    assert by_change["darker"] == pytest.approx(-1, abs=0.05)


def test_images_that_cannot_be_changed_stop_no_run(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_encoder(_: Any) -> None:
        raise OSError("encoder jpeg not available")

    monkeypatch.setattr(library, "changed_images", no_encoder)
    run = run_suite(suite, "energy", stability=True)
    assert [(record.status, record.stability) for record in run.records] == [(OK, {})] * 2
    assert (
        run.info["notes"].count(
            "No stability on 'planted', as its images cannot be changed: encoder jpeg not available"
        )
        == 1
    )


def changed_jobs(suite: Path, **options: Any) -> list[type]:
    jobs = prepare_suite(suite, "energy,msp", **options).work.jobs
    scored = [job for job in jobs if isinstance(job, ExtractJob | ScoreJob) and job.outputs.data.part == "changed"]
    return [type(job) for job in scored]


def test_one_more_pass_per_classifier_and_one_more_score_job_per_detector(suite: Path) -> None:
    assert sorted(job.__name__ for job in changed_jobs(suite, stability=True)) == ["ExtractJob", "ScoreJob", "ScoreJob"]
    assert changed_jobs(suite, stability=False) == []


def test_a_suite_switches_it_off_for_itself(suite: Path) -> None:
    suite.write_text(suite.read_text().replace("[protocol]\n", "[protocol]\nstability = false\n"))
    assert changed_jobs(suite, stability=True) == []
    suite.write_text(suite.read_text().replace("stability = false", "stability = 1"))
    done = bench("run", "--suite", suite, "--dry-run")
    assert done.exit_code == 2
    assert "stability in [protocol] is 1; it must be true or false" in done.output


def test_the_command_line_has_it_by_default_and_switches_it_off(suite: Path, tmp_path: Path) -> None:
    arguments = ("run", "--suite", suite, "--detectors", "msp", "--results", tmp_path / "results", "--threads", 1)
    with_it, without = (bench(*arguments, *more, "--dry-run").output for more in ((), ("--no-stability",)))
    assert "score planted (changed) with msp" in with_it
    assert "changed" not in without


def test_a_failure_fails_no_cell_and_is_tried_again_only_if_asked(suite: Path) -> None:
    run = run_suite(suite, "test_untinted", stability=True, ood_sets="planted-near")
    (record,) = run.records
    assert (record.status, record.stability) == (OK, {})
    assert any("slightly changed ID test images could not be scored" in note for note in record.notes)
    assert "tints are not for me" in " ".join(text_table(run, 120).split())
    assert "changed_scores" not in record.artifacts
    assert bench("verify", run.path.name, "--results", suite.parent / "results").exit_code == 0
    before = RefusesTint.calls
    run_suite(suite, "test_untinted", stability=True, ood_sets="planted-near")
    assert RefusesTint.calls == before, "the same command leaves it as it is"
    run_suite(suite, "test_untinted", stability=True, ood_sets="planted-near", rerun="failed")
    assert RefusesTint.calls > before


def test_a_record_without_its_changed_scores_is_made_again(suite: Path, tmp_path: Path) -> None:
    run = run_suite(suite, "energy", stability=True, ood_sets="planted-near")
    path = tmp_path / "results" / "cache" / run.records[0].artifacts["changed_scores"]
    assert prepare_suite(suite, "energy", stability=True, ood_sets="planted-near").work.jobs == []
    path.unlink()
    (job,) = prepare_suite(suite, "energy", stability=True, ood_sets="planted-near").work.jobs
    assert isinstance(job, ScoreJob)
    again = run_suite(suite, "energy", stability=True, ood_sets="planted-near")
    assert again.records[0].stability == run.records[0].stability
    assert path.is_file()


def test_records_with_and_without_it_have_unlike_keys_and_like_metrics(suite: Path) -> None:
    without = run_suite(suite, "energy", ood_sets="planted-near").records[0]
    record = run_suite(suite, "energy", stability=True, ood_sets="planted-near").records[0]
    assert record.key != without.key
    assert (record.metrics, record.forward_images) == (without.metrics, without.forward_images)
    assert without.stability == {}


@pytest.fixture
def finished(suite: Path) -> Path:
    run_suite(suite, "energy", stability=True, ood_sets="planted-near")
    return suite.parent / "results"


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def the_record(results: Path) -> tuple[Path, Record]:
    (path,) = (results / "runs/tiny/cells").iterdir()
    return path, read_stored_run(results / "runs/tiny").records[0]


def test_verify_recomputes_it(finished: Path) -> None:
    assert bench("verify", "tiny", "--results", finished).exit_code == 0
    path, record = the_record(finished)
    edit(path, stability={**record.stability, "jpeg": record.stability["jpeg"] + 1e-6})
    done = bench("verify", "tiny", "--results", finished)
    assert done.exit_code == 1
    assert "planted/planted-near/energy/0: stability, jpeg, is " in done.output


def test_verify_hashes_its_scores(finished: Path) -> None:
    _, record = the_record(finished)
    path = finished / "cache" / record.artifacts["changed_scores"]
    np.save(path, np.load(path) + 1)
    done = bench("verify", "tiny", "--results", finished)
    assert done.exit_code == 1
    assert f"{record.artifacts['changed_scores']}: damaged" in done.output


def test_prune_keeps_its_scores_while_a_record_names_them(finished: Path) -> None:
    path, record = the_record(finished)
    assert prune(finished) == (0, 0)
    without = {name: file for name, file in record.artifacts.items() if name != "changed_scores"}
    edit(path, artifacts=without)
    prune(finished)
    assert not (finished / "cache" / record.artifacts["changed_scores"]).exists()
    assert (finished / "cache" / record.artifacts["id_scores"]).is_file()


def test_its_page_and_its_provenance_show_it(finished: Path) -> None:
    _, record = the_record(finished)
    done = bench("show", "tiny", "--cell", "planted/planted-near/energy/0", "--results", finished)
    assert f"stability, tint                  {record.stability['tint']}" in done.output
    uses = [(used["use"], used["part"]) for used in record.provenance["data"]]
    assert ("check stability", "changed") in uses


def summary_with(run: StoredRun, **stability: float) -> str:
    records = [replace(record, stability=stability) for record in run.records]
    return lines_of(replace(run, records=records))


def test_scores_are_named_beyond_the_bound_on_either_side(finished: Path) -> None:
    run = read_stored_run(finished / "runs/tiny")
    areas = {0.5: False, 0.6: False, 0.601: True, 0.4: False, 0.399: True, 1.0: True, 0.0: True}
    for area, named in areas.items():
        text = summary_with(run, tint=0.5, shifted=area)
        assert ("Warning: scores that notice slight changes" in text) == named, area
        assert f"shift by one pixel: energy {100 * area:.1f}" in text
        assert "JPEG:" not in text.partition("Stability on")[2], "what was not measured is not shown"


def test_runs_without_it_have_no_line(finished: Path) -> None:
    assert summary_with(read_stored_run(finished / "runs/tiny")) == ""


EMBEDDED = """
[[id]]
set = "digits[0-1]"
ood = [{ set = "greek" }]
"""


@pytest.mark.slow
def test_processes_give_the_same_bytes(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, EMBEDDED, name="embedded")
    one = run_suite(suite, "energy,knn,odin", stability=True)
    other = run_suite(suite, "energy,knn,odin", stability=True, jobs=2, results=suite.parent / "other")
    assert tables_of(one.path) == tables_of(other.path)
    assert one.records[0].stability == other.records[0].stability != {}
