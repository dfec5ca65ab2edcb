"""Settings that are tried: each is fitted once and scores each set once, in ordinary jobs that all choices share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark import auroc, report
from oodbench.benchmark.api import Prepared
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.engines.tasks import pack_tasks
from oodbench.benchmark.plan.job_order import share_passes, share_products
from oodbench.benchmark.plan.jobs import FitJob, Job, ScoreJob, waits_for
from oodbench.benchmark.plan.plan import Plan
from oodbench.benchmark.plan.tuning.jobs import TuneJob
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.records.prune import prune
from oodbench.benchmark.records.record import FAILED, OK, write_record
from oodbench.benchmark.stages.fit_score import chosen
from oodbench.benchmark.standalone.bundle.export import export
from oodbench.benchmark.verify.run import verify
from oodbench.benchmark.views.metric_titles import metric_of
from oodbench.benchmark.views.tables import text as table_text
from tests.stages.chooser import MATRIX, Chooser, fits
from tests.support import prepare_suite, tables_of, write_suite

Prepare = Callable[..., Prepared]
Register = Callable[[str, type[Plugin]], None]


@pytest.fixture
def prepare_tiny(tmp_path: Path, register: Register, undrawn: None) -> Prepare:
    register("chooser", Chooser)
    fits.clear()
    suite = write_suite(tmp_path, MATRIX)
    return lambda detectors="chooser", **options: prepare_suite(suite, detectors, **options)


def tried(plan: Plan, kind: type[FitJob] | type[ScoreJob]) -> list[Any]:
    """The jobs of a plan that only try settings, for a choice."""
    return [
        job for job in plan.jobs.values() if isinstance(job, kind) and job.tried_for and not getattr(job, "tuned", 0)
    ]


def tunings(plan: Plan) -> list[TuneJob]:
    return [job for job in plan.jobs.values() if isinstance(job, TuneJob)]


def in_order(jobs: Iterable[Job]) -> bool:
    """Whether every job comes after those it waits for."""
    done: set[str] = set()
    known = list(jobs)
    ids = {job.id for job in known}
    for job in known:
        if not waits_for(job) & ids <= done:
            return False
        done.add(job.id)
    return True


def test_odin_scores_each_set_once_with_each_of_its_settings(prepare_tiny: Prepare) -> None:
    """Three choices on four sets, two of them kin: 20 settings, ID validation and four tuning halves."""
    plan = prepare_tiny("odin", protocol="leave_one_out").plan
    scored = Counter((job.detector, job.outputs.data) for job in tried(plan, ScoreJob))
    choices = [one for one in tunings(plan) if len(one.ood) > 1]
    assert len(choices) == 3
    assert sum(len(one.candidates) * (1 + len(one.ood)) for one in choices) == 20 * (4 + 4 + 3)
    assert len(scored) == sum(scored.values()) == 20 * 5
    assert len({job.detector for job in tried(plan, FitJob)}) in (0, 20)


@pytest.mark.slow
def test_each_setting_is_fitted_once_and_the_one_that_is_chosen_is_not_fitted_again(prepare_tiny: Prepare) -> None:
    prepared = prepare_tiny(protocol="leave_one_out")
    assert {record.status for record in prepared.start().records} == {OK}
    assert len(tunings(prepared.plan)) == 3 + 4  # of three choices, and on each source alone
    assert {settings: count for settings, count in fits.items() if settings[0]} == dict.fromkeys(
        [(-1.0, 1), (-1.0, 2), (1.0, 1), (1.0, 2)], 1
    )
    refused = {settings: count for settings, count in fits.items() if not settings[0]}
    assert refused == {(0.0, 1): 2, (0.0, 2): 2}  # once by its job, and once to say why it is left out


@pytest.mark.slow
def test_settings_that_are_refused_are_left_out_without_a_word_and_others_fail_the_cells(
    prepare_tiny: Prepare, register: Register, tmp_path: Path
) -> None:
    class Silent(Quiet):
        reasons: list[str] = []

        def finish(self, job: Job, reason: str) -> None:
            self.reasons += [reason] if reason else []

    run = prepare_tiny(protocol="leave_one_out").start(Silent())
    assert Silent.reasons == []
    assert not (run.path / "logs").exists()

    class Broken(Chooser):
        """A detector that fails with some of its settings, other than by a refusal."""

        def fit(self, classifier: Any, data: Any) -> None:
            if self.power == 2:
                raise ZeroDivisionError("a mistake")
            super().fit(classifier, data)

    register("broken", Broken)
    records = prepare_tiny("broken", protocol="leave_one_out", name="broken").start(Silent()).records
    assert {record.status for record in records} == {FAILED}
    assert all(record.reason.endswith("ZeroDivisionError: a mistake") for record in records)
    assert all("ZeroDivisionError: a mistake" in reason for reason in Silent.reasons)


def test_a_row_with_the_same_settings_shares_the_jobs_and_fails_aloud(prepare_tiny: Prepare) -> None:
    prepared = prepare_tiny("chooser,chooser[sign=-1.0,power=2],chooser[sign=0.0,power=2]", protocol="leave_one_out")
    plan = prepared.plan
    assert {job.detector for job in tried(plan, FitJob)} == {
        "chooser",
        "chooser[power=2]",
        "chooser[sign=-1.0]",
        "chooser[sign=0.0]",
    }
    assert len([job for job in plan.jobs.values() if isinstance(job, FitJob)]) == 6
    records = prepared.start().records
    failed = {record.label for record in records if record.status == FAILED}
    assert failed == {"chooser[sign=0.0,power=2]"} or failed == {"chooser[power=2,sign=0.0]"}
    assert fits[-1.0, 2] == 1


def test_jobs_of_detectors_that_share_products_still_come_after_those_they_wait_for(prepare_tiny: Prepare) -> None:
    plan = prepare_tiny("knn,relation,chooser", protocol="leave_one_out", metrics="extended").plan
    ordered = share_products(share_passes(plan.jobs.values(), plan.jobs))
    assert len(ordered) == len(plan.jobs)
    assert in_order(ordered)
    sharing = [job for job in ordered if isinstance(job, ScoreJob) and job.others and not job.tuned]
    assert max(len(job.others) for job in sharing) == 8 + 4 - 1  # the candidates of both detectors on one set
    assert in_order(job for task in pack_tasks(ordered) for job in task.jobs)


@pytest.mark.slow
def test_what_is_missing_is_computed_again_and_pruning_keeps_what_a_choice_is_made_from(
    prepare_tiny: Prepare, tmp_path: Path
) -> None:
    prepared = prepare_tiny("chooser", protocol="leave_one_out")
    before = tables_of(prepared.start().path)
    store, plan = prepared.context.store, prepared.plan
    choices = [candidate for one in tunings(plan) for candidate in one.candidates]
    made = [key for one in choices for key in (one.fitted, *one.scores) if key and all(map(store.has, one.scores))]
    prune(tmp_path / "results")
    assert len(made) > 4
    assert all(store.has(key) for key in made)
    final = [job for job in plan.jobs.values() if isinstance(job, ScoreJob) and job.tuned and not job.tried_for]
    for job in final:
        state = job.state_of(chosen(prepared.context, job))
        assert state is not None
        store.remove(state)
        store.remove(job.makes[0])
    fits.clear()
    again = prepare_tiny("chooser", protocol="leave_one_out").start()
    assert tables_of(again.path) == before
    lost = {job.state_of(chosen(prepared.context, job)) for job in final}
    assert sum(count for (sign, _), count in fits.items() if sign) == len(lost)


def test_a_record_names_what_was_chosen_and_not_what_was_only_tried(prepare_tiny: Prepare) -> None:
    prepared = prepare_tiny("chooser", protocol="leave_one_out", ood_sets="greek,uniform")
    record = next(record for record in prepared.start().records if record.ood_set == "greek")
    kinds = Counter(artifact["kind"] for artifact in record.provenance["artifacts"])
    assert (kinds["fit"], kinds["tuned"], kinds["scores"]) == (1, 1, 2)
    settings = {"sign": 1.0, "power": 1, **record.tuned["settings"]}
    (fit,) = (artifact for artifact in record.provenance["artifacts"] if artifact["kind"] == "fit")
    by_path = {job.makes[0].path: job.detector for job in tried(prepared.plan, FitJob)}
    name = by_path[fit["path"]]
    assert ("sign=-1.0" in name, "power=2" in name) == (settings["sign"] == -1.0, settings["power"] == 2)
    uses = {(one["use"], one["set"], one["part"]) for one in record.provenance["data"]}
    assert {use for use in uses if use[0] == "score"} == {
        ("score", "digits[0-3]", "test"),
        ("score", "greek", "scored"),
    }
    assert ("tune on OOD", "uniform", "tuning") in uses
    assert ("tune", "digits[0-3]", "validation") in uses


def test_a_tuned_detector_is_exported_with_what_its_settings_learned(prepare_tiny: Prepare, tmp_path: Path) -> None:
    run = prepare_tiny("knn", protocol="val_ood", ood_sets="greek").start()
    (record,) = run.records
    bundle = export(run.path, "knn", tmp_path / "knn.ood", results=tmp_path / "results")
    assert dict(bundle.tuned)["settings"] == record.tuned["settings"]
    for name, value in record.tuned["settings"].items():
        assert f"{name}={value}" in bundle.detector.spec


@pytest.mark.slow
def test_seeds_share_a_row_protocols_do_not_and_both_are_verified(prepare_tiny: Prepare, tmp_path: Path) -> None:
    for protocol in ("leave_one_out", "val_id"):
        options: dict[str, Any] = {"protocol": protocol, "seeds": 2, "ood_sets": "greek,uniform", "name": "tiny"}
        run = prepare_tiny("chooser", add=True, **options).start()
    result = verify(run.path, tmp_path / "results", tmp_path)
    assert result.problems == []
    labels = {record.label for record in run.records}
    assert labels == {"chooser (protocol=leave_one_out)", "chooser (protocol=val_id)"}
    assert Counter(record.label for record in run.records) == dict.fromkeys(labels, 4)


def test_a_changed_tuning_spread_is_found(prepare_tiny: Prepare, tmp_path: Path) -> None:
    run = prepare_tiny("chooser", protocol="leave_one_out", ood_sets="greek,uniform", near="digits[4-9]").start()
    record = run.records[0]
    by_source = dict(record.tuned["by_source"])
    largest = max(by_source, key=lambda source: by_source[source])
    changed = {**record.tuned, "by_source": {**by_source, largest: by_source[largest] + 0.01}}
    changed["spread"] = record.tuned["spread"] + 0.01
    write_record(run.path, replace(record, tuned=changed))
    problems = verify(run.path, tmp_path / "results", tmp_path).problems
    assert any(f"AUROC as tuned on {largest} alone is {by_source[largest] + 0.01}" in problem for problem in problems)
    assert any(f"the tuning spread is {changed['spread']}" in problem for problem in problems)


def test_the_spread_is_over_what_each_source_alone_would_choose(prepare_tiny: Prepare, tmp_path: Path) -> None:
    prepared = prepare_tiny("chooser", protocol="leave_one_out", ood_sets="greek,uniform", near="digits[4-9]")
    run, store = prepared.start(), prepared.context.store
    single = {one.ood[0].data: store.load_json(one.makes[0]) for one in tunings(prepared.plan) if len(one.ood) == 1}
    for record in run.records:
        cell = next(cell for cell in prepared.plan.cells if cell.record.ood_set == record.ood_set)
        assert cell.id_outputs is not None
        assert cell.ood_scores is not None
        ood = prepared.plan.jobs[cell.ood_scores.digest]
        assert isinstance(ood, ScoreJob)
        tops = [store.load_array(o.logits).astype(float).max(axis=1) for o in (cell.id_outputs, ood.outputs)]
        by_hand = {}
        for data, choice in single.items():
            if data.set != record.ood_set:
                settings = {"sign": 1.0, "power": 1, **choice["settings"]}
                by_hand[str(data)] = auroc(*(-settings["sign"] * top ** settings["power"] for top in tops))
        assert len(by_hand) == 2
        assert record.tuned["by_source"] == pytest.approx(by_hand, abs=1e-12)
        assert record.tuned["spread"] == pytest.approx(max(by_hand.values()) - min(by_hand.values()), abs=1e-12)
        assert metric_of("tuning-spread").of(record) == record.tuned["spread"]
    assert verify(run.path, tmp_path / "results", tmp_path).problems == []
    text = " ".join(table_text.text_table(run).split())
    near = next(record.tuned["spread"] for record in run.records if record.group == "near")
    others = [record.tuned["spread"] for record in run.records if record.group != "near"]
    shown = f"chooser {100 * sum(others) / 2:.1f}, near {100 * near:.1f}."
    assert f"Tuning spread on digits[0-3]: {shown}" in text
    page = report(run, tmp_path / "report.html", results=tmp_path / "results", images=0).read_text(encoding="utf-8")
    assert "tuning spread" in page
    assert "tuning_spread" in (run.path / "records.csv").read_text(encoding="utf-8").splitlines()[0]


def test_one_source_has_no_spread_and_its_failure_fails_no_cell(prepare_tiny: Prepare) -> None:
    prepared = prepare_tiny("chooser", protocol="val_ood", ood_sets="greek")
    assert [cell.tuned_on_each for cell in prepared.plan.cells] == [()]
    (record,) = prepared.start().records
    assert "spread" not in record.tuned
    prepared = prepare_tiny("chooser", protocol="val_id", ood_sets="greek", name="id")
    (cell,) = prepared.plan.cells
    assert len(cell.tuned_on_each) == 5
    assert not {key.digest for one in cell.tuned_on_each for key in one.scores} & set(cell.cannot_lack)
