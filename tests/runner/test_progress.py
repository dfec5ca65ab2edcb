"""What displays say about a run: jobs and stages, images per second, the time left, the best row so far, failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from oodbench.benchmark.api import Prepared
from oodbench.benchmark.engines.tasks import divided
from oodbench.benchmark.plan.jobs import ExtractJob, Job, TrainJob
from oodbench.benchmark.records.record import FAILED, Record
from oodbench.benchmark.runner.progress.failures import NAMED, Failures
from oodbench.benchmark.runner.progress.meter import FIRST_ESTIMATE, Meter, Snapshot, about, clock_text, facts
from oodbench.benchmark.runner.progress.standing import Standing
from oodbench.benchmark.views.choice import best
from oodbench.benchmark.views.marks import percent
from oodbench.benchmark.views.summary import summary_of
from tests.support import prepare_suite, run_suite, write_suite

SECONDS = {"train": 60.0, "extract": 4.0, "reduce": 0.0, "fit": 0.4, "score": 0.2}
"""What jobs of each kind take in these tests; those of the plan below take 5 minutes, most of them in training."""

MATRIX = """
[[id]]
set = "digits[0-4]"
outliers = "glyphs"
ood = [
    { set = "digits[5-9]", group = "near" }, { set = "greek", group = "near" },
    { set = "uniform", group = "far" }, { set = "glyphs" }
]
"""


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A run of three trainings, their passes, fits and scores."""
    return prepare_suite(write_suite(tmp_path_factory.mktemp("suite"), MATRIX), "msp,energy,knn,vim,residual", seeds=3)


@pytest.fixture(scope="module")
def jobs(prepared: Prepared) -> list[Job]:
    """The jobs of the run, in their order."""
    return prepared.work.jobs


def simulated(jobs: Sequence[Job], workers: int = 1, steps: int = 20) -> Iterator[tuple[Snapshot, float, float]]:
    """Jobs that take `SECONDS`: how things stand, seconds so far, and seconds that are left in truth.

    Workers take the jobs in turn, as if none waited for another.
    """
    clock = Clock()
    meter = Meter(jobs, clock)
    began, busy = clock.now, [0.0] * workers
    events: list[tuple[float, int, Job, str]] = []
    for number, job in enumerate(jobs):
        worker = busy.index(min(busy))
        seconds = SECONDS[job.kind]
        events.append((busy[worker], number, job, "start"))
        events += [(busy[worker] + seconds * step / steps, number, job, "tick") for step in range(1, steps + 1)]
        busy[worker] += seconds
        events.append((busy[worker], number, job, "finish"))
    for when, _, job, what in sorted(events, key=lambda event: (event[0], event[1])):
        clock.now = began + when
        if what == "start":
            meter.start(job)
        elif what == "tick":
            meter.tick(job, job.size // steps)
        else:
            meter.finish(job)
        yield meter.snapshot(), when, max(busy) - when


@pytest.mark.parametrize("workers, settled", [(1, 0.25), (4, 0.5)])
def test_the_time_left_is_near_the_truth_though_stages_cost_unlike_amounts(
    jobs: list[Job], workers: int, settled: float
) -> None:
    states = list(simulated(jobs, workers))
    assert all(state.left is None for state, seconds, _ in states if seconds < FIRST_ESTIMATE), "nobody can know yet"
    whole = states[-1][1]
    known = [(seconds / whole, state.left / left) for state, seconds, left in states if state.left and left > 10]
    assert all(0.3 < ratio < 3 for _, ratio in known), "the first stage says little about the others"
    later = [ratio for share, ratio in known if share > settled]
    assert len(later) > 20
    assert all(0.6 < ratio < 1.6 for ratio in later)


def test_a_stage_that_takes_long_is_learnt_while_it_runs(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SECONDS, "score", 5.0)  # far more than any prior knowledge says
    states = list(simulated(jobs))
    later = [(state.left, left) for state, seconds, left in states if seconds > 0.4 * states[-1][1] and left > 20]
    assert len(later) > 20
    assert all(found is not None and 0.75 * left < found < 1.35 * left for found, left in later)


def test_counts_and_shares_end_whole_and_never_go_back(jobs: list[Job]) -> None:
    states = [state for state, _, _ in simulated(jobs)]
    assert (states[-1].done, states[-1].jobs, states[-1].share) == (len(jobs), len(jobs), 1.0)
    assert [state.share for state in states] == sorted(state.share for state in states)
    assert [state.done for state in states] == sorted(state.done for state in states)
    first = states[0]
    assert (first.stage, first.stage_done, first.stage_jobs) == ("training", 0, 3)
    assert {state.stage for state in states} == {"training", "passing images", "fitting", "scoring"}


def test_images_per_second_are_those_of_the_last_seconds_of_the_stage(jobs: list[Job]) -> None:
    training = next(job for job in jobs if isinstance(job, TrainJob))
    per_second = (training.size // 20) / (SECONDS["train"] / 20)
    found = [s.images_per_second for s, seconds, _ in simulated(jobs) if 15 < seconds < 55]
    assert found == pytest.approx([per_second] * len(found))
    passes = [s.images_per_second for s, seconds, _ in simulated(jobs) if 61 < seconds < 61.9]
    assert min(passes) > 2 * per_second, "the training before does not count"


def test_a_divided_pass_counts_once_and_its_parts_as_work(jobs: list[Job]) -> None:
    whole = next(job for job in jobs if isinstance(job, ExtractJob))
    split = divided(replace(whole, block=32), 64)
    assert len(split.parts) > 2
    clocks = Clock(), Clock()
    divided_meter, meter = (Meter(jobs, clock) for clock in clocks)
    for job in split.parts:
        divided_meter.start(job)
        clocks[0].now += 100 * job.size / whole.size
        divided_meter.finish(job)
    before = divided_meter.snapshot()
    divided_meter.start(split)
    divided_meter.finish(split)
    meter.start(whole)
    clocks[1].now += 100
    meter.finish(whole)
    found, expected = divided_meter.snapshot(), meter.snapshot()
    assert (before.done, found.done, expected.done) == (0, 1, 1)
    assert expected.left is not None
    assert [before.left, found.left] == pytest.approx([expected.left] * 2, rel=0.02)


def test_jobs_that_another_process_does_count_no_images(jobs: list[Job]) -> None:
    clock = Clock()
    meter = Meter(jobs, clock)
    for job in jobs:
        meter.start(job)
        meter.finish(job)
    state = meter.snapshot()
    assert (state.done, state.left, state.images_per_second) == (len(jobs), None, 0.0)


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.0, "a few seconds left"), (9.9, "a few seconds left"), (12, "about 10 s left"), (54.9, "about 50 s left"),
        (58, "about 1 min left"), (95, "about 2 min left"), (19 * 60, "about 19 min left"),
        (33 * 60, "about 35 min left"), (150 * 60, "about 2.5 h left"), (60 * 3600, "about 2.5 days left"),
    ],
)  # fmt: skip
def test_times_are_no_more_exact_than_estimates_are(seconds: float, text: str) -> None:
    assert about(seconds) == text


def test_facts_leave_out_what_is_not_known() -> None:
    assert facts(Snapshot(jobs=20)) == ["preparing", "0 of 20 jobs", "0:00"]
    state = Snapshot("training", 2, 16, 211, 1480, 1234.5, 3723.0, 130.0)
    assert facts(state) == [
        *("training 3 of 16", "211 of 1,480 jobs", "1,234 images/s", "1:02:03"),
        "about 2 min left",
    ]
    assert clock_text(59.9) == "0:59"


# The best row so far


@pytest.mark.slow
def test_the_best_row_is_that_of_the_table(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, MATRIX)
    run = run_suite(suite, "msp,energy,residual", seeds=2, epochs=1)
    block = summary_of(run).blocks[0]
    leader = best(block, 1, "near:auroc")[0]
    near, far = (leader.means[group, "auroc"].mean for group in ("near", "far"))
    standing = Standing(run.records)
    said = []
    for record in run.records:
        standing.add(record)
        said.append(standing.line())
    expected = f"digits[0-4]: {leader.label}, near {percent(near)}, far {percent(far)} AUROC (3 of 3 rows)"
    assert said[-1] == expected
    assert Standing(run.records, run.records).line() == expected, "cells of earlier commands count"
    assert said[0] == "", "one cell is no mean over near sets"
    assert prepare_suite(suite, "msp,energy,residual", seeds=2, epochs=1).standing().line() == expected


def test_rows_that_lack_a_set_of_the_group_do_not_lead(prepared: Prepared) -> None:
    planned = [planned_cell(prepared, label, name) for label in ("a", "b") for name in ("one", "two")]
    standing = Standing(planned)
    for record, area in zip(planned, (0.6, 0.7, 0.99, 0.0), strict=True):
        standing.add(replace(record, metrics={"auroc": area}, status=FAILED if area == 0.0 else record.status))
    assert standing.line() == "id: a, near 65.0 AUROC (1 of 2 rows)"


def test_the_outlier_source_is_in_no_mean(prepared: Prepared) -> None:
    planned = [planned_cell(prepared, "a", name) for name in ("one", "source")]
    planned[1] = replace(planned[1], outlier_source=True)
    standing = Standing(planned)
    for record, area in zip(planned, (0.6, 1.0), strict=True):
        standing.add(replace(record, metrics={"auroc": area}))
    assert standing.line() == "id: a, near 60.0 AUROC (1 of 1 rows)"


def planned_cell(prepared: Prepared, label: str, ood_set: str) -> Record:
    return replace(
        prepared.plan.cells[0].record, label=label, id_set="id", ood_set=ood_set, group="near", outlier_source=False
    )


# Failures


def test_each_reason_is_named_once_and_what_waits_for_the_job_is_counted(jobs: list[Job]) -> None:
    failures, training = Failures(), jobs[0]
    assert failures.text(training, "no memory") == f"failed: {training.title}: no memory"
    for job in jobs[1:4]:
        assert failures.text(job, f"{training.title}: no memory") == "", "it waited for the training"
    assert failures.text(jobs[4], "no memory") == "", "the same reason again"
    assert failures.rest() == "failed: 4 more jobs, for these reasons or as the table says"


def test_failures_of_many_reasons_do_not_fill_the_screen(jobs: list[Job]) -> None:
    failures = Failures()
    texts = [failures.text(jobs[0], f"reason {number}\x1b[31m") for number in range(300)]
    assert sum(map(bool, texts)) == NAMED
    assert "\x1b" not in "".join(texts)
    assert failures.rest() == f"failed: {300 - NAMED} more jobs, for these reasons or as the table says"
    assert Failures().rest() == ""
