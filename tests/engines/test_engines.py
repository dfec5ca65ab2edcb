"""Engines: which jobs go to one worker, passes in parts, what a worker says, and what is refused."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from oodbench.benchmark import Detector
from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.engines import ray_engine
from oodbench.benchmark.engines.choose import choose_engine
from oodbench.benchmark.engines.engine import Outcome, Quiet, Report
from oodbench.benchmark.engines.local import Local, run_jobs
from oodbench.benchmark.engines.messages import Event
from oodbench.benchmark.engines.processes import Processes
from oodbench.benchmark.engines.ray_preflight import NodeInfo, check_node, inspect_node, this_node
from oodbench.benchmark.engines.relay import Relay, lost_task_report, portable_config
from oodbench.benchmark.engines.tasks import PART, WorkerTask, divided, pack_tasks
from oodbench.benchmark.engines.worker import Worker
from oodbench.benchmark.errors import StoreError, UserError
from oodbench.benchmark.plan.jobs import ExtractJob, Job, ReduceMapsJob, ScoreJob, TrainJob, runs_network, waits_for
from oodbench.benchmark.plan.suite import default_suite, suite_path
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.stages import extract as extraction
from oodbench.benchmark.stages.worker_config import WorkerConfig

Register = Callable[[str, type[Plugin]], None]
DETECTORS = "msp,energy,knn,nnguide,odin,gram,vim@cross_entropy[learning_rate=0.01]"


def planned(results: Path, detectors: str = DETECTORS, **options: Any) -> Prepared:
    given = {"results": results, "threads": 1, "epochs": 1, "device": "cpu", "id_sets": "digits[0-1]"}
    given["ood_sets"] = "greek,glyphs"
    return prepare(detectors, **{**given, "backbone": "small_cnn[hidden=4,width=2]", **options})


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    return planned(tmp_path_factory.mktemp("plan")).work.jobs


def home_of(tasks: list[WorkerTask]) -> dict[str, WorkerTask]:
    return {job.id: task for task in tasks for job in task.jobs}


@pytest.mark.parametrize("part", [256, PART])
def test_every_job_is_in_one_task_after_those_that_it_waits_for(jobs: list[Job], part: int) -> None:
    tasks = pack_tasks(jobs, part)
    inside = [job.id for task in tasks for job in task.jobs]
    assert len(inside) == len(set(inside))
    assert set(inside) >= {job.id for job in jobs}
    homes, done = home_of(tasks), set[str]()
    for task in tasks:
        assert set(task.after) <= done, "tasks come in an order that their dependencies allow"
        for place, job in enumerate(task.jobs):
            earlier = {one.id for one in task.jobs[:place]}
            outside = waits_for(job) - earlier
            assert {homes[id_].id for id_ in outside if id_ in homes} <= set(task.after), job.title
        done.add(task.id)


def test_what_must_be_done_together_is_one_task(jobs: list[Job]) -> None:
    homes = home_of(pack_tasks(jobs))
    for job in jobs:
        if isinstance(job, ExtractJob):
            assert {homes[reduction.id].id for reduction in job.reductions} <= {homes[job.id].id}
        if isinstance(job, ScoreJob) and job.bank is not None:
            assert {homes[other.id].id for other in job.others} <= {homes[job.id].id}
    assert any(isinstance(job, ReduceMapsJob) for job in jobs)
    assert any(isinstance(job, ScoreJob) and job.others for job in jobs)


def test_quick_scores_of_a_detector_are_one_task_and_passes_of_their_own(jobs: list[Job]) -> None:
    homes = home_of(pack_tasks(jobs))
    scores = [job for job in jobs if isinstance(job, ScoreJob)]
    assert len({homes[job.id].id for job in scores if job.detector == "msp"}) == 1
    odin = [job for job in scores if job.detector == "odin"]
    assert len({homes[job.id].id for job in odin}) == len(odin) > 1


def test_a_batch_of_scores_ends_where_it_is_large_enough(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oodbench.benchmark.engines.tasks.BATCH", 1)
    homes = home_of(pack_tasks(jobs))
    msp = [job for job in jobs if isinstance(job, ScoreJob) and job.detector == "msp"]
    assert len({homes[job.id].id for job in msp}) == len(msp)


def test_which_jobs_want_a_gpu(jobs: list[Job]) -> None:
    wants = {job.id: runs_network(job) for job in jobs}
    for job in jobs:
        if isinstance(job, TrainJob | ExtractJob):
            assert wants[job.id]
        if isinstance(job, ScoreJob):
            assert wants[job.id] == (job.detector == "odin"), job.detector


# Passes in parts


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Sets of several parts, and parts of several blocks, from few images."""
    monkeypatch.setattr(extraction, "BLOCK", 16)
    return 32


@pytest.mark.usefixtures("one_thread")
def test_a_pass_in_parts_gives_the_same_bytes(tmp_path: Path, small_parts: int) -> None:
    whole, divided = (planned(tmp_path / name, "msp,gram", ood_sets="greek") for name in ("whole", "divided"))
    assert not [o.reason for o in run_jobs(whole.work.jobs, whole.context, Quiet()) if o.reason]
    tasks = pack_tasks(divided.work.jobs, small_parts)
    assert sum(task.kind == "part" for task in tasks) > 4
    pieces = [job for task in tasks for job in task.jobs]
    assert not [o.reason for o in run_jobs(pieces, divided.context, Quiet()) if o.reason]
    for job in whole.work.jobs:
        for key in job.makes:
            one, other = (made.context.store.require(key).read_bytes() for made in (whole, divided))
            assert one == other, key.path
    assert not list((divided.context.store.root / "parts").iterdir()), "parts are deleted when they are put together"


def test_parts_begin_where_blocks_do() -> None:
    assert PART % extraction.BLOCK == 0


def test_a_pass_in_which_a_detector_learns_stays_whole(jobs: list[Job]) -> None:
    learning = [
        job for job in jobs if isinstance(job, ExtractJob) and any(reduction.learns for reduction in job.reductions)
    ]
    assert learning
    assert all(divided(job, 16) is job for job in learning)


class Falters(Detector):
    """Cannot reduce the maps of a set's last images, which fill no block."""

    version = "1"
    needs = frozenset({"maps"})

    def reduce(self, maps: Any, features: Tensor, logits: Tensor) -> Tensor:
        """The first logit."""
        if len(logits) < 16:
            raise ValueError("no maps like these")
        return logits[:, :1]

    def score(self, batch: Any) -> Tensor:
        """What was kept."""
        kept: Tensor = batch.maps[:, 0]
        return kept.double()


@pytest.mark.usefixtures("one_thread")
def test_a_detector_that_fails_in_a_part_fails_alone_and_says_why(
    tmp_path: Path, register: Register, small_parts: int
) -> None:
    register("test_falters", Falters)
    made = planned(tmp_path, "msp,test_falters", ood_sets="greek")
    pieces = [job for task in pack_tasks(made.work.jobs, small_parts) for job in task.jobs]
    outcomes = list(run_jobs(pieces, made.context, Quiet()))
    failed = {o.job.id: o.reason for o in outcomes if o.reason}
    assert failed
    assert all("no maps like these" in reason for reason in failed.values())
    for job in made.work.jobs:
        if isinstance(job, ScoreJob):
            assert (job.id in failed) == (job.detector == "test_falters")


# Workers


def test_a_worker_does_what_the_plan_says_and_tells(tmp_path: Path) -> None:
    here_, there = (planned(tmp_path / name, "msp", ood_sets="greek") for name in ("here", "there"))
    outcomes = list(run_jobs(here_.work.jobs, here_.context, Quiet()))
    posted: list[Event] = []
    worker, heard = Worker(portable_config(there.context), posted.append), Heard()
    tasks = pack_tasks(there.work.jobs)
    relay = Relay(heard, tasks)
    told = [outcome for task in tasks for outcome in relay.outcomes(worker.do(task, {}, False))]
    assert {o.job.id: o.reason for o in told} == {o.job.id: o.reason for o in outcomes}
    for job in here_.work.jobs:
        for key in job.makes:
            assert there.context.store.require(key).read_bytes() == here_.context.store.require(key).read_bytes()
    assert [event[1] for event in posted if event[0] == "start"] == [o.job.id for o in told]
    trained = next(job for job in there.work.jobs if isinstance(job, TrainJob))
    assert sum(event[2] for event in posted if event[:2] == ("tick", trained.id)) == trained.size


class Heard:
    """Progress that notes what it hears."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, object]] = []

    def start(self, job: Job) -> None:
        self.told.append(("start", job.id, ""))

    def tick(self, job: Job, images: int) -> None:
        self.told.append(("tick", job.id, images))

    def finish(self, job: Job, reason: str) -> None:
        self.told.append(("finish", job.id, reason))


def test_events_of_workers_become_one_progress(jobs: list[Job], logged: list[str]) -> None:
    heard, tasks = Heard(), pack_tasks(jobs)
    first, second = tasks[0].jobs[0], tasks[1].jobs[0]
    relay = Relay(heard, tasks)
    for event in (
        ("start", first.id, 0),
        ("tick", first.id, 3),
        ("start", first.id, 0),  # its worker died, and another began anew
        ("tick", second.id, 9),  # of a worker whose beginning was lost
        ("log", "It is late.", logging.WARNING),
    ):
        relay.hear(event)
    ended = relay.outcomes(Report(((first.id, "", ""), (second.id, "torn", "trace"))))
    assert ended == [Outcome(first), Outcome(second, "torn", "trace")]
    assert logged == ["It is late."]
    assert heard.told == [
        ("start", first.id, ""),
        ("tick", first.id, 3),
        ("finish", first.id, ""),
        ("start", second.id, ""),
        ("finish", second.id, "torn"),
    ]
    with pytest.raises(StoreError, match="no space"):
        relay.outcomes(Report(fatal="no space"))


def test_a_task_after_a_failed_one_fails_for_its_reason(tmp_path: Path) -> None:
    made = planned(tmp_path, "msp", ood_sets="greek")
    train, extract = pack_tasks(made.work.jobs)[:2]
    worker = Worker(portable_config(made.context), lambda event: None)
    report = worker.do(extract, {train.id: "train it: broken"}, False)
    assert [reason for _, reason, _ in report.outcomes] == ["train it: broken"] * len(extract.jobs)
    assert report.failed[extract.id] == "train it: broken"


def test_what_a_worker_prints_is_kept_for_the_log(tmp_path: Path, register: Register) -> None:
    class Talks(Detector):
        """Prints."""

        version = "1"
        needs = frozenset({"logits"})

        def score(self, batch: Any) -> Tensor:
            """The first logit."""
            print("here I am")
            logits: Tensor = batch.logits
            return logits[:, 0]

    register("test_talks", Talks)
    made = planned(tmp_path, "test_talks,msp", ood_sets="greek")
    worker = Worker(portable_config(made.context), lambda event: None)
    details = {id_: text for task in pack_tasks(made.work.jobs) for id_, _, text in worker.do(task, {}, False).outcomes}
    for job in made.work.jobs:
        talks = isinstance(job, ScoreJob) and job.detector == "test_talks"
        assert ("here I am" in details[job.id]) == talks


def test_a_store_that_cannot_be_written_stops_everything(tmp_path: Path) -> None:
    made = planned(tmp_path, "msp", ood_sets="greek")
    (tmp_path / "file").write_text("in the way")
    setup = replace(portable_config(made.context), cache=tmp_path / "file" / "cache")
    report = Worker(setup, lambda event: None).do(pack_tasks(made.work.jobs)[0], {}, False)
    assert "Cannot" in report.fatal


def test_of_a_task_whose_worker_died_only_the_rest_fails(tmp_path: Path) -> None:
    made = planned(tmp_path, "msp", ood_sets="greek")
    scores = next(task for task in pack_tasks(made.work.jobs) if task.kind == "score")
    one = scores.jobs[0]
    made.context.store.save_array(one.makes[0], np.zeros(3), {})
    report = lost_task_report(scores, made.context, {}, "died")
    assert [reason for _, reason, _ in report.outcomes] == ["", *["died"] * (len(scores.jobs) - 1)]
    blocked = lost_task_report(scores, made.context, {scores.jobs[1].after[0]: "extract: no memory"}, "died")
    assert [reason for _, reason, _ in blocked.outcomes][:2] == ["", "extract: no memory"]


def test_a_worker_knows_the_folders_that_the_command_named(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for place in range(3):
        Image.new("RGB", (32, 32), (90 * place, 0, 0)).save(mine / f"{place}.png")
    made = planned(tmp_path / "results", "msp", ood_sets=f"folder:{mine}")
    setup = portable_config(made.context)
    assert setup.folders == (mine,)
    registry._from_files.clear()
    assert inspect_node(setup, "").plugin == ""
    worker = Worker(setup, lambda event: None)
    reasons = [reason for task in pack_tasks(made.work.jobs) for _, reason, _ in worker.do(task, {}, False).outcomes]
    assert set(reasons) == {""}
    assert "does not exist" in inspect_node(replace(setup, folders=(tmp_path / "absent",)), "").plugin


# What is refused


@pytest.mark.parametrize(
    "options, told",
    [
        ({"name": "slurm"}, r"^Unknown engine 'slurm'\. Choose local or ray\.$"),
        ({"name": "local", "jobs": 0}, r"^jobs must be a whole number from 1; got 0\.$"),
        ({"name": "ray", "jobs": 2}, r"^--jobs is for processes of this machine; .* Leave it out\.$"),
        (
            {"name": "local", "ray_address": "local"},
            r"^--ray-address is for --engine ray\. Add that, or leave it out\.$",
        ),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        choose_engine(**options)


def test_threads_where_none_are_named() -> None:
    cores = {1: (1, 1, 1), 6: (6, 3, 1), 64: (8, 8, 1)}
    for count, expected in cores.items():
        assert tuple(engine.threads(count) for engine in (Local(), Processes(2), ray_engine.Cluster())) == expected


def test_without_ray_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    made = planned(tmp_path, "msp", ood_sets="greek", engine="ray")
    with pytest.raises(UserError, match=r"^--engine ray needs Ray: pip install 'oodbench\[ray\]'\.$"):
        made.start()


@pytest.mark.parametrize("address", ["head", "head:port", ":6379", "ray://head:10001"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(
        UserError, match=r"is no address of a Ray cluster\. Give HOST:PORT of its head node, or 'local'\."
    ):
        ray_engine._refuse_silent(address)


def test_an_address_at_which_nothing_answers() -> None:
    with pytest.raises(UserError, match=r"^No Ray cluster answers at '127\.0\.0\.1:1' \(.*\)\. Start one with "):
        ray_engine._refuse_silent("127.0.0.1:1")


def setup_of(folder: Path, **more: Any) -> WorkerConfig:
    return WorkerConfig(folder, folder, "cpu", 1, **more)


def test_resources_that_no_node_has(tmp_path: Path) -> None:
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0}]
    ray_engine._refuse_impossible(replace(setup_of(tmp_path), threads=4), 0.5, nodes)
    with pytest.raises(UserError, match=r"^A job wants 8 CPUs, and the largest node of the Ray cluster has 4\. "):
        ray_engine._refuse_impossible(replace(setup_of(tmp_path), threads=8), 0, nodes)
    with pytest.raises(UserError, match=r"^A job wants 2 GPUs, and the largest node of the Ray cluster has 1\. "):
        ray_engine._refuse_impossible(setup_of(tmp_path), 2, nodes)


def test_gpus_are_asked_for_where_there_are_some_or_the_user_says_so(tmp_path: Path) -> None:
    engine = ray_engine.Cluster(gpus=0.25)
    for device, gpus, expected in (("auto", 0, 0), ("auto", 2, 0.25), ("cpu", 2, 0), ("cuda", 0, 0.25)):
        nodes = [{"CPU": 2.0}, {"CPU": 2.0, "GPU": float(gpus)}]
        assert engine._gpus_of(replace(setup_of(tmp_path), device=device), nodes) == expected


@pytest.mark.parametrize("gpus", [-0.5, 1.5, float("nan"), float("inf")])
def test_gpus_are_a_share_of_one_or_whole(gpus: float) -> None:
    with pytest.raises(UserError, match=r"^gpus is .*; it must be a share of one GPU, such as 0\.25, or"):
        choose_engine("ray", gpus=gpus)


@pytest.mark.parametrize("given, expected", [(None, 0.5), (2.0, 2.0), (0.0, 0.0)])
def test_a_suite_says_how_many_gpus_a_job_takes(tmp_path: Path, given: float | None, expected: float) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'oodbench[ray]'")
    suite = tmp_path / "shares.toml"
    text = suite_path(default_suite()).read_text(encoding="utf-8")
    suite.write_text(text.replace("[protocol]", "[protocol]\ngpus = 0.5"), encoding="utf-8")
    made = prepare("msp", suite=str(suite), results=tmp_path / "results", engine="ray", gpus=given)
    assert isinstance(made.engine, ray_engine.Cluster)
    assert made.engine.gpus == expected


def test_what_a_cluster_hands_about_is_read_without_torch() -> None:
    parts = ("stages.worker_config", "engines.tasks", "engines.ray_progress", "engines.messages", "engines.engine")
    code = (
        "import sys\n"
        + "".join(f"import oodbench.benchmark.{part}\n" for part in parts)
        + "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_node_with_other_software_is_refused_with_both_versions(tmp_path: Path) -> None:
    for what in ("Python", "oodbench", "torch", "numpy"):
        theirs = NodeInfo({**this_node(), what: "0.0.1"})
        told = rf"^{what} is {this_node()[what]} here and 0\.0\.1 on node b\.".replace("(", r"\(").replace(")", r"\)")
        with pytest.raises(UserError, match=told.replace("+", r"\+")):
            check_node("b", this_node(), theirs, setup_of(tmp_path))


def test_a_node_that_does_not_see_the_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mark").touch()
    seen = inspect_node(setup_of(tmp_path), "mark")
    check_node("a", this_node(), seen, setup_of(tmp_path))
    assert sorted(tmp_path.iterdir()) == [tmp_path / "mark"]
    unseen = inspect_node(setup_of(tmp_path), "absent")
    with pytest.raises(
        StoreError, match=r"^Node b does not see the results folder '.*'\. Give a folder that all nodes"
    ):
        check_node("b", this_node(), unseen, setup_of(tmp_path))


def test_a_node_without_a_plugin_is_refused_with_how_to_ship_it(tmp_path: Path) -> None:
    (tmp_path / "mark").touch()
    setup = setup_of(tmp_path, plugins=(tmp_path / "mine.py",))
    with pytest.raises(
        UserError, match=r"^Node b lacks a file that was named: The plug-in file '.*mine\.py' does not exist\..*"
    ):
        check_node("b", this_node(), inspect_node(setup, "mark"), setup)
