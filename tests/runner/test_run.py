"""`bench run` end to end on a tiny suite: sharing, resuming, failures, and the content of the files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark import Dataset, ImageSet
from oodbench.benchmark.api import Prepared
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.errors import StoreError, UserError
from oodbench.benchmark.metrics.names import TIES
from oodbench.benchmark.plan.jobs import ExtractJob, Job, ScoreJob, TrainJob
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.runner import run_info
from oodbench.benchmark.stages import evaluate
from oodbench.benchmark.stats.intervals import confidence_intervals
from oodbench.benchmark.views.summary import summary_of
from tests.support import prepare_suite, run_suite, tables_of

SUITE = """
schema = 1
title = "Tiny"
notes = ["For tests."]
[protocol]
backbone = "small_cnn[width=4,hidden=16]"
recipe = "cross_entropy"
[training]
epochs = 1
batch_size = 64
[recipes.gan]
width = 2
[recipes.joint]
width = 2
[[id]]
set = "digits[0-3]"
outliers = "glyphs"
ood = [
  { set = "glyphs", group = "near" },
  { set = "greek", group = "near" },
  { set = "uniform", group = "far" },
]
"""

BROKEN = """
import torch
from oodbench.benchmark import Batch, Detector, detector

@detector("test_raises", title="Raises")
class Raises(Detector):
    def score(self, batch):
        raise RuntimeError("no luck today")

@detector("test_nan", title="NaN")
class NotANumber(Detector):
    def score(self, batch):
        scores = batch.logits[:, 0].clone()
        scores[3] = torch.nan
        return scores

@detector("test_shape", title="Wrong shape")
class Shape(Detector):
    def score(self, batch):
        return batch.logits

@detector("test_batch", title="Looks at its neighbours")
class Neighbours(Detector):
    def score(self, batch):
        return batch.logits[:, 0] - batch.logits[:, 0].mean()
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def run_tiny(suite: Path) -> Callable[..., StoredRun]:
    """Run the tiny suite with some detectors, in a results folder per test; without plots unless `plots_drawn`."""
    return partial(run_suite, suite)


@pytest.fixture
def plan(tmp_path: Path, suite: Path) -> Callable[..., Prepared]:
    return partial(prepare_suite, suite)


class Spy(Quiet):
    """Collects the jobs that start; with `stop`, interrupts at the start of the job with that number."""

    def __init__(self, stop: int | None = None) -> None:
        self.jobs: list[Job] = []
        self.stop = stop

    def start(self, job: Job) -> None:
        if len(self.jobs) == self.stop:
            raise KeyboardInterrupt
        self.jobs.append(job)


def test_a_run_writes_records_tables_and_plots(run_tiny: Callable[..., StoredRun]) -> None:
    run = run_tiny("msp,energy,confidence", plots_drawn=True)
    assert [(r.detector, r.ood_set, r.group, r.seen) for r in run.records] == [
        (detector, ood, group, detector == "confidence" and ood == "glyphs")
        for detector in ("msp", "energy", "confidence")
        for ood, group in (("glyphs", "near"), ("greek", "near"), ("uniform", "far"))
    ]
    assert all(r.status == "ok" and 0 <= v <= 1 for r in run.records for v in r.metrics.values())
    files = {"run.json", "cells", "records.csv", "table.csv", "table.md", "table.tex"}
    assert {p.name for p in run.path.iterdir()} >= files
    assert len(list((run.path / "plots").glob("*.png"))) == len(list((run.path / "plots").glob("*.svg"))) >= 4
    assert run.info["asked"]["detectors"] == ["msp", "energy", "confidence"]
    assert run.info["packages"]["torch"]
    assert run.info["threads"] == 1


def test_numbers_are_those_of_the_stored_scores(run_tiny: Callable[..., StoredRun], tmp_path: Path) -> None:
    import numpy as np
    from sklearn.metrics import roc_auc_score

    run = run_tiny("energy")
    for record in run.records:
        id_, ood = (np.load(tmp_path / "results/cache" / record.artifacts[k]) for k in ("id_scores", "ood_scores"))
        labels = np.r_[np.zeros(len(id_)), np.ones(len(ood))]
        assert record.metrics["auroc"] == pytest.approx(roc_auc_score(labels, np.r_[id_, ood]), abs=1e-12)
        assert (record.n_id, record.n_ood) == (len(id_), len(ood))


def test_records_hold_the_counts_behind_warnings(run_tiny: Callable[..., StoredRun], tmp_path: Path) -> None:
    import numpy as np

    run = run_tiny("constant,energy")
    for record in run.records:
        id_, ood = (np.load(tmp_path / "results/cache" / record.artifacts[k]) for k in ("id_scores", "ood_scores"))
        assert (record.ties["distinct_id"], record.ties["distinct_ood"]) == (len(set(id_)), len(set(ood)))
        assert record.sanity == (record.detector == "constant")
    constant = run.records[0]
    assert constant.ties == dict(zip(TIES, (1, 1, constant.n_id, constant.n_ood), strict=True))
    table = (run.path / "table.md").read_text()
    assert "A sanity row gives all images the same score" in table
    assert "Warning: all images" not in table


def test_equal_recipes_share_a_checkpoint_and_one_pass(plan: Callable[..., Prepared]) -> None:
    jobs = plan("msp,energy,max_logit,energy[temperature=2]").work.jobs
    assert sum(isinstance(job, TrainJob) for job in jobs) == 1
    assert sum(isinstance(job, ExtractJob) for job in jobs) == 4  # the ID set and three OOD sets
    assert sum(isinstance(job, ScoreJob) for job in jobs) == 4 * 4


def test_forward_images_are_charged_once(plan: Callable[..., Prepared]) -> None:
    cells = plan("msp,energy").plan.cells
    charged = {(c.record.label, c.record.ood_set): c.record.forward_images for c in cells}
    sizes = {c.record.ood_set: c.record.n_ood for c in cells}
    n_id = cells[0].record.n_id
    assert n_id is not None
    assert charged["msp", "glyphs"] == n_id + (sizes["glyphs"] or 0)
    assert charged["msp", "greek"] == sizes["greek"]
    assert charged["msp", "uniform"] == sizes["uniform"]
    assert {charged["energy", ood] for ood in sizes} == {0}


def test_the_line_on_passes_names_the_detectors_that_add_some(plan: Callable[..., Prepared]) -> None:
    made = plan("msp,odin,mahalanobis,odin[epsilon=0.001]", ood_sets="glyphs,greek").plan
    extracts = [job for job in made.jobs.values() if isinstance(job, ExtractJob)]
    known, ood = made.cells[0].record.n_id or 0, sum(cell.record.n_ood or 0 for cell in made.cells[:2])
    images = sum(job.size for job in extracts)
    assert len(extracts) == 5  # training, validation and three test sets
    assert run_info._passes(made) == (
        f"{images:,} distinct images, 1 classifier: {images:,} forwarded, each once a classifier for all detectors; "
        f"odin +{2 * (known + ood):,}; odin[epsilon=0.001] +{2 * (known + ood):,}."
    )
    assert sum(cell.record.forward_images for cell in made.cells) == images + 4 * (known + ood)


def test_the_line_on_passes_names_no_detector_without_further_passes(run_tiny: Callable[..., StoredRun]) -> None:
    run = run_tiny("msp,confidence", ood_sets="greek")
    images = sum((run.records[0].n_id or 0, run.records[0].n_ood or 0))
    line = f"{images:,} distinct images, 2 classifiers: {2 * images:,} forwarded, each once a classifier for all detec"
    assert run.info["passes"] == f"{line}tors."
    assert f"- {line}" in (run.path / "table.md").read_text()


@pytest.mark.slow
def test_repeating_a_command_recomputes_and_redraws_nothing(
    run_tiny: Callable[..., StoredRun], plan: Callable[..., Prepared]
) -> None:
    first = run_tiny("msp,energy", plots_drawn=True)
    before = tables_of(first.path)
    times = {p: p.stat().st_mtime_ns for p in first.path.rglob("*") if p.is_file() and p.name != "run.json"}
    assert plan("msp,energy").work.jobs == []
    spy = Spy()
    again = run_tiny("msp,energy", progress=spy, plots_drawn=True)
    assert spy.jobs == []
    assert tables_of(again.path) == before
    assert {p: p.stat().st_mtime_ns for p in times} == times


def test_adding_a_detector_costs_only_that_detector(run_tiny: Callable[..., StoredRun]) -> None:
    before = {(r.detector, r.ood_set): r for r in run_tiny("msp").records}
    spy = Spy()
    after = run_tiny("msp,energy", progress=spy)
    assert {type(job) for job in spy.jobs} == {ScoreJob}
    assert len(spy.jobs) == 4
    for record in after.records:
        if record.detector == "msp":
            assert record.metrics == before["msp", record.ood_set].metrics


def test_a_detector_on_another_recipes_network(run_tiny: Callable[..., StoredRun]) -> None:
    run = run_tiny("energy@confidence,energy")
    labels = {r.label: r.recipe for r in run.records}
    assert labels == {"energy@confidence": "confidence", "energy": "cross_entropy"}
    base, other = (
        next(r.metrics["auroc"] for r in run.records if r.label == label and r.ood_set == "glyphs")
        for label in ("energy", "energy@confidence")
    )
    assert base != other


def test_the_same_recipe_named_or_not_is_one_row(plan: Callable[..., Prepared]) -> None:
    cells = plan("msp,msp@cross_entropy,confidence,confidence@confidence[beta=1]").plan.cells
    assert {c.record.label for c in cells} == {"msp", "confidence"}


def test_recipe_settings_make_another_checkpoint(plan: Callable[..., Prepared]) -> None:
    jobs = plan("msp@confidence,msp@confidence[beta=0.5],msp@confidence[beta=1]").work.jobs
    assert sorted(job.title for job in jobs if isinstance(job, TrainJob)) == [
        "train confidence on digits[0-3], seed 0",
        "train confidence[beta=0.5] on digits[0-3], seed 0",
    ]


def test_an_id_set_under_two_names_shares_its_artifacts(run_tiny: Callable[..., StoredRun]) -> None:
    spy = Spy()
    run = run_tiny("msp,knn[k=3]", id_sets="digits,digits[0-9]", ood_sets="greek", limit_train=100, progress=spy)
    assert sum(isinstance(job, TrainJob) for job in spy.jobs) == 1
    assert sum(isinstance(job, ScoreJob) for job in spy.jobs) == 4
    metrics = {(record.id_set, record.detector): record.metrics for record in run.records}
    for detector in ("msp", "knn"):
        assert metrics["digits", detector] == metrics["digits[0-9]", detector]


def test_a_recipe_that_builds_on_another_waits_for_it(plan: Callable[..., Prepared]) -> None:
    jobs = [job for job in plan("gan_confidence").work.jobs if isinstance(job, TrainJob)]
    assert [job.checkpoint.recipe.partition("[")[0] for job in jobs] == ["gan", "gan_confidence"]
    assert jobs[1].after == (jobs[0].id,)


def test_adding_a_seed_moves_no_other_number(run_tiny: Callable[..., StoredRun]) -> None:
    one = {(r.label, r.ood_set): r.metrics for r in run_tiny("msp", seeds=1).records}
    spy = Spy()
    two = run_tiny("msp", seeds=2, progress=spy)
    assert {getattr(job, "seed", 1) for job in spy.jobs} == {1}
    assert {(r.label, r.ood_set): r.metrics for r in two.records if r.seed == 0} == one
    assert {r.seed for r in two.records} == {0, 1}


@pytest.mark.parametrize("stop", [0, 4, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2, 7, 9))])
def test_an_interrupted_run_resumes_to_the_same_bytes(
    run_tiny: Callable[..., StoredRun], tmp_path: Path, stop: int
) -> None:
    whole = tables_of(run_tiny("msp,energy", results=tmp_path / "whole").path)
    with pytest.raises(KeyboardInterrupt):
        run_tiny("msp,energy", progress=Spy(stop))
    spy = Spy()
    assert tables_of(run_tiny("msp,energy", progress=spy).path) == whole
    assert len(spy.jobs) == 13 - stop  # 1 training, 4 extractions, 8 scorings: nothing runs twice


def test_a_failing_detector_fails_its_own_cells(run_tiny: Callable[..., StoredRun], tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text(BROKEN)
    run = run_tiny("msp,test_raises,test_nan,test_shape,test_batch", plugins=[file])
    status = {(r.detector, r.status) for r in run.records}
    bad = ("test_raises", "test_nan", "test_shape", "test_batch")
    assert status == {("msp", "ok"), *((name, "failed") for name in bad)}
    reasons = {r.detector: r.reason for r in run.records}
    assert "no luck today" in reasons["test_raises"]
    assert "image 3" in reasons["test_nan"]
    assert "finite" in reasons["test_nan"]
    assert "shape" in reasons["test_shape"]
    assert "depends on the batch" in reasons["test_batch"]
    assert "no luck today" in (run.path / "table.md").read_text()
    assert any("no luck today" in p.read_text() for p in (run.path / "logs").iterdir())

    for rerun, done in (("missing", 0), ("failed", 16), ("all", 25)):
        spy = Spy()
        run_tiny("msp,test_raises,test_nan,test_shape,test_batch", plugins=[file], rerun=rerun, progress=spy)
        assert len(spy.jobs) == done, rerun


def test_a_failed_training_fails_dependent_cells(
    run_tiny: Callable[..., StoredRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    from oodbench.benchmark.stages.training.train_loop import TrainLoop

    def fail(*_: object) -> None:
        raise MemoryError("nothing left")

    monkeypatch.setattr(TrainLoop, "run", fail)
    run = run_tiny("msp")
    assert {r.status for r in run.records} == {"failed"}
    assert "train cross_entropy on digits[0-3], seed 0: MemoryError: nothing left" in run.records[0].reason


def test_a_damaged_artifact_is_set_aside_and_recomputed(
    run_tiny: Callable[..., StoredRun], tmp_path: Path, logged: list[str]
) -> None:
    run = run_tiny("msp")
    before = tables_of(run.path)
    scores = tmp_path / "results/cache" / run.records[0].artifacts["ood_scores"]
    scores.write_bytes(scores.read_bytes()[:-8])
    spy = Spy()
    again = run_tiny("msp", progress=spy)
    assert len(logged) == 1
    assert "does not match its checksum" in logged[0]
    assert [type(job) for job in spy.jobs] == [ScoreJob]
    assert tables_of(again.path) == before
    assert len(list((tmp_path / "results/cache/damaged").iterdir())) == 1


def replace_weights(cache: Path, recipe: str) -> Path:
    """Replace a checkpoint's weights by those of another architecture, with a matching side file."""
    from safetensors.torch import load_file, save_file

    path = next((cache / "checkpoint").glob(f"{recipe}-*.safetensors"))
    weights = load_file(path)
    first = sorted(weights)[0]
    weights[first] = weights[first][:-1].contiguous()
    save_file(weights, path)
    side = path.with_name(path.name + ".json")
    side.write_text(
        json.dumps({**json.loads(side.read_text()), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    )
    return path


@pytest.mark.parametrize(
    "recipe, detector",
    [("cross_entropy", "energy"), pytest.param("gan", "gan_confidence", marks=pytest.mark.slow)],
)
def test_weights_of_another_architecture_are_set_aside_and_retrained(
    run_tiny: Callable[..., StoredRun], tmp_path: Path, recipe: str, detector: str
) -> None:
    run_tiny(f"msp,{detector}")
    before = tables_of(run_tiny(f"msp,{detector}").path)
    cache = tmp_path / "results/cache"
    path = replace_weights(cache, recipe)
    for kind in ("logits", "scores"):
        for other in (cache / kind).iterdir():
            other.unlink()
    if recipe == "gan":
        next((cache / "checkpoint").glob("gan_confidence-*.safetensors")).unlink()
    with pytest.raises(StoreError, match=rf"do not fit the networks of recipe '{recipe}.*moved to '.*damaged"):
        run_tiny(f"msp,{detector}")
    assert not path.exists()
    assert [file.name for file in (cache / "damaged").iterdir()] == [path.name + ".0"]
    assert tables_of(run_tiny(f"msp,{detector}").path) == before


def test_outliers_of_another_shape_are_refused_by_the_planner(tmp_path: Path, register: Callable[..., None]) -> None:
    class Large(Dataset):
        classes = ("a", "b")

        def load(self, split: str, data_dir: Path) -> ImageSet:
            return ImageSet(np.zeros((20, 3, 48, 48), np.uint8), np.arange(20) % 2, self.classes)

    register("run_large", Large)
    path = tmp_path / "large.toml"
    path.write_text(SUITE.replace('outliers = "glyphs"', 'outliers = "run_large"').replace('"glyphs"', '"run_large"'))
    with pytest.raises(
        UserError, match="'confidence' needs outliers: the images of 'run_large' have 3 channels of 48 x 48"
    ):
        prepare_suite(path, "confidence")
    plan = prepare_suite(path, "all").plan
    assert "run_large" not in {cell.record.ood_set for cell in plan.cells}
    assert "run_large" in [absence.what for absence in plan.skipped]
    assert {c.record.label for c in plan.cells if c.record.status == "skipped"} == {"confidence"}


def test_a_run_of_a_newer_schema_is_refused_and_left_unchanged(run_tiny: Callable[..., StoredRun]) -> None:
    run = run_tiny("msp")
    path = run.path / "run.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 99'))
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="schema 99, newer than 1"):
        run_tiny("energy")
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before


def test_the_table_keeps_earlier_commands_unless_only_the_last_one_is_wanted(
    run_tiny: Callable[..., StoredRun],
) -> None:
    run_tiny("msp")
    assert {r.detector for r in run_tiny("energy").records} == {"energy", "msp"}
    assert {r.detector for r in run_tiny("energy", only=True).records} == {"energy"}
    assert {r.detector for r in run_tiny("msp", add=True).records} == {"energy", "msp"}
    assert {r.detector for r in run_tiny("msp", only=True).records} == {"msp"}


def test_add_keeps_cells_of_another_backbone(run_tiny: Callable[..., StoredRun], plan: Callable[..., Prepared]) -> None:
    alone = run_tiny("msp", ood_sets="greek")
    assert [r.label for r in alone.records] == ["msp"]
    added = run_tiny("msp", ood_sets="greek", add=True, backbone="small_cnn[width=8]")
    assert [r.label for r in added.records] == ["msp (small_cnn[hidden=16,width=4])", "msp (small_cnn[width=8])"]
    assert added.records[0].metrics == alone.records[0].metrics != added.records[1].metrics
    for name in ("table.md", "table.tex", "table.csv"):
        assert (added.path / name).read_text().count("width=8") >= 1
    [block] = summary_of(added).blocks
    assert [row.cells["greek"].stats["auroc"].mean for row in block.rows] == [r.metrics["auroc"] for r in added.records]
    assert len(plan("msp", ood_sets="greek", add=True).work.cells) == 0
    assert len(plan("msp", ood_sets="greek", add=True, backbone="small_cnn[width=8]").work.cells) == 0
    last = run_tiny("msp", ood_sets="greek", backbone="small_cnn[width=4,hidden=16]")
    assert [r.label for r in last.records] == ["msp"]


def test_records_of_another_backbone_under_an_older_name_are_kept(run_tiny: Callable[..., StoredRun]) -> None:
    run = run_tiny("msp", ood_sets="greek", backbone="small_cnn[width=8]")
    [path] = (run.path / "cells").iterdir()
    content = json.loads(path.read_text())
    del content["origin"]
    path.unlink()
    older = path.with_name(replace(run.records[0], origin={}).file_name)
    older.write_text(json.dumps(content))
    info = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**info, "cells": [older.name]}))
    assert [r.metrics for r in read_stored_run(run.path).records] == [run.records[0].metrics]
    labels = ["msp (small_cnn[width=8])", "msp (small_cnn[hidden=16,width=4])"]
    added = run_tiny("msp", ood_sets="greek", add=True)
    assert [r.label for r in added.records] == labels
    assert added.records[0].metrics == run.records[0].metrics
    replaced = run_tiny("msp", ood_sets="greek", add=True, backbone="small_cnn[width=8]")
    assert [r.label for r in replaced.records] == labels[::-1]
    assert replaced.records[1].metrics == run.records[0].metrics
    assert {p.name for p in (run.path / "cells").iterdir()} == {r.file_name for r in replaced.records}
    assert path.name in {r.file_name for r in replaced.records}


def test_what_is_missing_is_skipped_through_all_and_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "bare.toml"
    path.write_text(SUITE.replace('outliers = "glyphs"\n', ""))
    with pytest.raises(UserError, match="needs outliers, and the suite names none"):
        prepare_suite(path, "confidence")
    cells = prepare_suite(path, "all").plan.cells
    skipped = {c.record.label: c.record.reason for c in cells if c.record.status == "skipped"}
    assert set(skipped) == {"confidence"}
    assert "needs outliers" in skipped["confidence"]


def test_records_hold_intervals_that_respect_groups(
    run_tiny: Callable[..., StoredRun], suite: Path, tmp_path: Path, register: Callable[..., None]
) -> None:
    class Crops(Dataset):
        splits = ("test",)

        def load(self, split: str, data_dir: Path) -> ImageSet:
            images = greek.load("test", data_dir).images
            return ImageSet(images[:120], groups=np.arange(120) // 12)

    greek = registry.get("dataset", "greek")()
    register("run_crops", Crops)
    suite.write_text(SUITE.replace('"uniform"', '"run_crops"'))
    run = run_tiny("msp", ood_sets="greek,run_crops")
    cache = tmp_path / "results/cache"
    library = Library(tmp_path)
    groups = {name: library.part(parse_set(name), "test").groups for name in ("digits[0-3]", "greek", "run_crops")}
    assert all(own is not None for own in groups.values())
    for record in run.records:
        id_scores, ood_scores = (np.load(cache / record.artifacts[f"{side}_scores"]) for side in ("id", "ood"))
        expected = confidence_intervals(id_scores, ood_scores, groups[record.id_set], groups[record.ood_set])
        assert {name: tuple(ends) for name, ends in record.intervals.items()} == expected


def test_records_without_intervals_are_shown_and_filled_by_the_same_command(run_tiny: Callable[..., StoredRun]) -> None:
    run = run_tiny("msp")
    before = tables_of(run.path)
    for path in (run.path / "cells").iterdir():
        content = json.loads(path.read_text())
        del content["intervals"]
        path.write_text(json.dumps({**content, "key": "older"}))
    assert all(not record.intervals for record in read_stored_run(run.path).records)
    spy = Spy()
    assert tables_of(run_tiny("msp", progress=spy).path) == before
    assert spy.jobs == []


def test_deleted_tables_are_written_again(run_tiny: Callable[..., StoredRun]) -> None:
    run = run_tiny("msp")
    before = tables_of(run.path)
    assert set(before) == {"table.csv", "table.md", "table.tex", "best.json", "records.csv"}
    for name in ("table.csv", "table.md", "table.tex"):
        (run.path / name).unlink()
    assert tables_of(run_tiny("msp").path) == before


def test_a_cell_key_depends_on_its_scores_only(plan: Callable[..., Prepared]) -> None:
    keys = {(c.record.label, c.record.ood_set): evaluate.cell_key(c) for c in plan("msp,energy").plan.cells}
    assert len(set(keys.values())) == len(keys)
    again = {(c.record.label, c.record.ood_set): evaluate.cell_key(c) for c in plan("energy,msp").plan.cells}
    assert again == keys


def test_jobs_of_a_cell_are_found_without_walking_all_jobs(plan: Callable[..., Prepared]) -> None:
    """Provenance needs the jobs of every cell; walking all jobs for each cell would be quadratic."""

    class Walked(dict[str, Job]):
        walks = 0

        def __iter__(self) -> Any:
            Walked.walks += 1
            return super().__iter__()

        def items(self) -> Any:
            Walked.walks += 1
            return super().items()

    made = plan("msp,energy,knn[k=3]").plan
    expected = [[job for job in made.jobs.values() if job in made.jobs_for([cell])] for cell in made.cells]
    made.jobs = Walked(made.jobs)
    made._position = {}
    assert [made.jobs_for([cell]) for cell in made.cells] == expected
    assert Walked.walks == 1
