"""Engines: tasks, passes divided into parts, what workers post and report, and options that are refused."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from oodbench.benchmark import Detector
from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.data.pictures.block import BLOCK
from oodbench.benchmark.engines import processes, ray_engine
from oodbench.benchmark.engines.choose import choose_engine
from oodbench.benchmark.engines.engine import Outcome, Quiet, Report, following
from oodbench.benchmark.engines.local import run_jobs
from oodbench.benchmark.engines.messages import Event, ProgressReporter
from oodbench.benchmark.engines.ray_preflight import NodeInfo, check_node, inspect_node
from oodbench.benchmark.engines.relay import Relay, lost_task_report, portable_config
from oodbench.benchmark.engines.same_code import software_here
from oodbench.benchmark.engines.tasks import PART, WorkerTask, divided, pack_tasks
from oodbench.benchmark.engines.worker import Worker
from oodbench.benchmark.errors import StoreError, UserError
from oodbench.benchmark.plan import job_builder
from oodbench.benchmark.plan.jobs import ExtractJob, Job, ReduceMapsJob, ScoreJob, TrainJob, runs_network, waits_for
from oodbench.benchmark.plan.suite_file import default_suite, suite_path
from oodbench.benchmark.plan.used_code import PlannedCode
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.stages.training.epoch_values import EpochValues
from oodbench.benchmark.stages.worker_config import WorkerConfig

Register = Callable[[str, type[Plugin]], None]
DETECTORS = "msp,energy,knn,nnguide,odin,gram,vim@cross_entropy[learning_rate=0.01]"


def planned(results: Path, detectors: str = DETECTORS, **options: Any) -> Prepared:
    defaults = {"results": results, "threads": 1, "epochs": 1, "device": "cpu", "id_sets": "digits[0-1]"}
    defaults |= {"ood_sets": "greek,glyphs", "backbone": "small_cnn[hidden=4,width=2]"}
    return prepare(detectors, **{**defaults, **options})


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    return planned(tmp_path_factory.mktemp("plan")).work.jobs


def task_by_job(tasks: list[WorkerTask]) -> dict[str, WorkerTask]:
    return {job.id: task for task in tasks for job in task.jobs}


@pytest.mark.parametrize("part", [256, PART])
def test_every_job_is_in_one_task_after_those_that_it_waits_for(jobs: list[Job], part: int) -> None:
    tasks = pack_tasks(jobs, part)
    packed = [job.id for task in tasks for job in task.jobs]
    assert len(packed) == len(set(packed))
    assert set(packed) >= {job.id for job in jobs}
    task_of, done = task_by_job(tasks), set[str]()
    for task in tasks:
        assert set(task.after) <= done, "the order of tasks respects their dependencies"
        for index, job in enumerate(task.jobs):
            outside = waits_for(job) - {earlier.id for earlier in task.jobs[:index]}
            assert {task_of[id_].id for id_ in outside if id_ in task_of} <= set(task.after), job.title
        done.add(task.id)


def test_jobs_that_must_run_together_are_one_task(jobs: list[Job]) -> None:
    task_of = task_by_job(pack_tasks(jobs))
    for job in jobs:
        if isinstance(job, ExtractJob):
            assert {task_of[reduction.id].id for reduction in job.reductions} <= {task_of[job.id].id}
        if isinstance(job, ScoreJob) and job.bank is not None:
            assert {task_of[other.id].id for other in job.others} <= {task_of[job.id].id}
    assert any(isinstance(job, ReduceMapsJob) for job in jobs)
    assert any(isinstance(job, ScoreJob) and job.others for job in jobs)


def test_quick_scores_of_a_detector_are_one_task_unless_they_need_passes(jobs: list[Job]) -> None:
    task_of = task_by_job(pack_tasks(jobs))
    scores = [job for job in jobs if isinstance(job, ScoreJob)]
    assert len({task_of[job.id].id for job in scores if job.detector == "msp"}) == 1
    odin = [job for job in scores if job.detector == "odin"]
    assert len({task_of[job.id].id for job in odin}) == len(odin) > 1


def test_a_batch_of_scores_ends_when_it_is_large_enough(jobs: list[Job]) -> None:
    task_of = task_by_job(pack_tasks(jobs, batch=1))
    msp = [job for job in jobs if isinstance(job, ScoreJob) and job.detector == "msp"]
    assert len({task_of[job.id].id for job in msp}) == len(msp)


def test_which_jobs_run_a_network(jobs: list[Job]) -> None:
    runs = {job.id: runs_network(job) for job in jobs}
    for job in jobs:
        if isinstance(job, TrainJob | ExtractJob):
            assert runs[job.id]
        if isinstance(job, ScoreJob):
            assert runs[job.id] == (job.detector == "odin"), job.detector


# Passes in parts


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """The size of a part, so that sets of few images have several parts, and parts several blocks."""
    monkeypatch.setattr(job_builder, "block_of", lambda *_: 16)
    return 32


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_pass_in_parts_gives_the_same_bytes(tmp_path: Path, small_parts: int) -> None:
    undivided, divided = (planned(tmp_path / name, "msp,gram", ood_sets="greek") for name in ("undivided", "divided"))
    assert not [o.reason for o in run_jobs(undivided.work.jobs, undivided.context, Quiet()) if o.reason]
    tasks = pack_tasks(divided.work.jobs, small_parts)
    assert sum(task.kind == "part" for task in tasks) > 4
    pieces = [job for task in tasks for job in task.jobs]
    assert not [o.reason for o in run_jobs(pieces, divided.context, Quiet()) if o.reason]
    for job in undivided.work.jobs:
        for key in job.makes:
            expected, found = (run.context.store.require(key).read_bytes() for run in (undivided, divided))
            assert found == expected, key.path
    assert not list((divided.context.store.root / "parts").iterdir()), "parts are deleted once they are joined"


@pytest.mark.parametrize("block", [7, 8, BLOCK, 20_000])
def test_parts_consist_of_full_blocks(jobs: list[Job], block: int) -> None:
    job = next(job for job in jobs if isinstance(job, ExtractJob) and not job.reductions)
    outputs = replace(job.outputs, data=replace(job.outputs.data, images=3 * PART))
    parts = divided(replace(job, outputs=outputs, block=block)).parts
    assert len(parts) > 1
    assert all(part.rows is not None and part.rows[0] % block == 0 for part in parts)


def test_a_pass_in_which_a_detector_learns_is_not_divided(jobs: list[Job]) -> None:
    learning = [
        job for job in jobs if isinstance(job, ExtractJob) and any(reduction.learns for reduction in job.reductions)
    ]
    assert learning
    assert all(divided(job, 16) is job for job in learning)


class Falters(Detector):
    """Fails on a set's last images, which do not fill a block."""

    version = "1"
    needs = frozenset({"maps"})

    def reduce(self, maps: Any, features: Tensor, logits: Tensor) -> Tensor:
        """The first logit."""
        if len(logits) < 16:
            raise ValueError("no maps like these")
        return logits[:, :1]

    def score(self, batch: Any) -> Tensor:
        """The reduction."""
        reduced: Tensor = batch.maps[:, 0]
        return reduced.double()


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_detector_that_fails_in_a_part_fails_alone_with_its_reason(
    tmp_path: Path, register: Register, small_parts: int
) -> None:
    register("test_falters", Falters)
    run = planned(tmp_path, "msp,test_falters", ood_sets="greek")
    pieces = [job for task in pack_tasks(run.work.jobs, small_parts) for job in task.jobs]
    outcomes = list(run_jobs(pieces, run.context, Quiet()))
    failed = {o.job.id: o.reason for o in outcomes if o.reason}
    assert failed
    assert all("no maps like these" in reason for reason in failed.values())
    for job in run.work.jobs:
        if isinstance(job, ScoreJob):
            assert (job.id in failed) == (job.detector == "test_falters")


# Workers


def test_a_worker_makes_the_same_artifacts_and_posts_its_progress(tmp_path: Path) -> None:
    local, remote = (planned(tmp_path / name, "msp", ood_sets="greek") for name in ("local", "remote"))
    expected = list(run_jobs(local.work.jobs, local.context, Quiet()))
    posted: list[Event] = []
    worker = Worker(portable_config(remote.context, remote.work.jobs), posted.append)
    tasks = pack_tasks(remote.work.jobs)
    relay = Relay(RecordedProgress(), tasks)
    outcomes = [outcome for task in tasks for outcome in relay.outcomes(worker.run(task, {}, False))]
    assert {o.job.id: o.reason for o in outcomes} == {o.job.id: o.reason for o in expected}
    for job in local.work.jobs:
        for key in job.makes:
            assert remote.context.store.require(key).read_bytes() == local.context.store.require(key).read_bytes()
    for kind in ("start", "done"):
        assert [event[1] for event in posted if event[0] == kind] == [o.job.id for o in outcomes]
    trained = next(job for job in remote.work.jobs if isinstance(job, TrainJob))
    assert sum(event[2] for event in posted if event[:2] == ("tick", trained.id)) == trained.size


class RecordedProgress:
    """Progress that records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, object]] = []

    def start(self, job: Job) -> None:
        self.calls.append(("start", job.id, ""))

    def tick(self, job: Job, images: int) -> None:
        self.calls.append(("tick", job.id, images))

    def training(self, job: Job, values: EpochValues) -> None:
        self.calls.append(("training", job.id, values))

    def finish(self, job: Job, reason: str) -> None:
        self.calls.append(("finish", job.id, reason))


def test_events_of_workers_become_one_progress(jobs: list[Job], logged: list[str]) -> None:
    progress, tasks = RecordedProgress(), pack_tasks(jobs)
    first, second = tasks[0].jobs[0], tasks[1].jobs[0]
    relay = Relay(progress, tasks)
    for event in (
        ("start", first.id, 0),
        ("tick", first.id, 3),
        ("start", first.id, 0),  # its worker died, and another one starts again
        ("tick", second.id, 9),  # from a worker whose start event was lost
        ("log", "It is late.", logging.WARNING),
    ):
        relay.handle(event)
    ended = relay.outcomes(Report(((first.id, "", ""), (second.id, "torn", "trace"))))
    assert ended == [Outcome(first), Outcome(second, "torn", "trace")]
    assert logged == ["It is late."]
    assert progress.calls == [
        ("start", first.id, ""),
        ("tick", first.id, 3),
        ("finish", first.id, ""),
        ("start", second.id, ""),
        ("finish", second.id, "torn"),
    ]
    with pytest.raises(StoreError, match="no space"):
        relay.outcomes(Report(fatal="no space"))


def test_losses_of_a_worker_s_training_reach_displays_that_take_them(jobs: list[Job]) -> None:
    values = EpochValues(1, 3, {"loss": 0.5})
    first, second = jobs[0], jobs[1]
    posted: list[Event] = []
    ProgressReporter(posted.append).training(first, values)
    progress, tasks = RecordedProgress(), pack_tasks(jobs)
    relay = Relay(progress, tasks)
    assert posted == [("training", first.id, values)]
    for event in (("start", first.id, 0), *posted, ("done", first.id, 0), ("training", second.id, values), *posted):
        relay.handle(event)
    assert progress.calls == [("start", first.id, ""), ("training", first.id, values), ("finish", first.id, "")]

    class OfOlderCode:
        """Progress without the method."""

        def start(self, job: Job) -> None: ...
        def tick(self, job: Job, images: int) -> None: ...
        def finish(self, job: Job, reason: str) -> None: ...

    relay = Relay(OfOlderCode(), tasks)
    for event in (("start", first.id, 0), *posted):
        relay.handle(event)
    following(OfOlderCode()).training(first, values)  # type: ignore[attr-defined]


def test_a_job_ends_when_its_worker_says_so_and_once(jobs: list[Job]) -> None:
    progress, tasks = RecordedProgress(), pack_tasks(jobs)
    task = max(tasks, key=lambda task: len(task.jobs))
    first, second, third = task.jobs[:3]
    relay = Relay(progress, tasks)
    for event in (
        ("start", first.id, 0),
        ("done", first.id, 0),
        ("start", second.id, 0),
        ("start", first.id, 0),  # the worker died, and another one starts the task again
        ("tick", first.id, 5),
        ("done", first.id, 0),
        ("done", third.id, 0),  # its start was lost
    ):
        relay.handle(event)
    relay.outcomes(Report(((first.id, "", ""), (second.id, "torn", ""), (third.id, "", ""))))
    assert progress.calls == [
        ("start", first.id, ""),
        ("finish", first.id, ""),
        ("start", second.id, ""),
        ("start", third.id, ""),
        ("finish", third.id, ""),
        ("finish", second.id, "torn"),
    ]


def test_a_task_after_a_failed_one_fails_for_its_reason(tmp_path: Path) -> None:
    run = planned(tmp_path, "msp", ood_sets="greek")
    train, extract = pack_tasks(run.work.jobs)[:2]
    worker = Worker(portable_config(run.context, run.work.jobs), lambda event: None)
    report = worker.run(extract, {train.id: "train it: broken"}, False)
    assert [reason for _, reason, _ in report.outcomes] == ["train it: broken"] * len(extract.jobs)
    assert report.failed[extract.id] == "train it: broken"


def test_what_a_job_prints_is_in_the_details_of_its_outcome(tmp_path: Path, register: Register) -> None:
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
    run = planned(tmp_path, "test_talks,msp", ood_sets="greek")
    worker = Worker(portable_config(run.context, run.work.jobs), lambda event: None)
    details = {id_: text for task in pack_tasks(run.work.jobs) for id_, _, text in worker.run(task, {}, False).outcomes}
    for job in run.work.jobs:
        prints = isinstance(job, ScoreJob) and job.detector == "test_talks"
        assert ("here I am" in details[job.id]) == prints


def test_a_store_that_cannot_be_written_stops_everything(tmp_path: Path) -> None:
    run = planned(tmp_path, "msp", ood_sets="greek")
    (tmp_path / "file").write_text("in the way")
    config = replace(portable_config(run.context, run.work.jobs), cache=tmp_path / "file" / "cache")
    report = Worker(config, lambda event: None).run(pack_tasks(run.work.jobs)[0], {}, False)
    assert "Cannot" in report.fatal


def test_if_a_worker_dies_only_the_unfinished_jobs_of_its_task_fail(tmp_path: Path) -> None:
    run = planned(tmp_path, "msp", ood_sets="greek")
    scores = next(task for task in pack_tasks(run.work.jobs) if task.kind == "score")
    finished = scores.jobs[0]
    run.context.store.save_array(finished.makes[0], np.zeros(3), {})
    report = lost_task_report(scores, run.context, {}, "died")
    assert [reason for _, reason, _ in report.outcomes] == ["", *["died"] * (len(scores.jobs) - 1)]
    blocked = lost_task_report(scores, run.context, {scores.jobs[1].after[0]: "extract: no memory"}, "died")
    assert [reason for _, reason, _ in blocked.outcomes][:2] == ["", "extract: no memory"]


def test_a_worker_knows_the_image_folders_of_the_command(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for index in range(3):
        Image.new("RGB", (32, 32), (90 * index, 0, 0)).save(mine / f"{index}.png")
    run = planned(tmp_path / "results", "msp", ood_sets=f"folder:{mine}")
    config = portable_config(run.context, run.work.jobs)
    assert config.folders == (f"folder:{mine}",)
    registry._from_files.clear()
    assert inspect_node(config, "").plugin_error == ""
    worker = Worker(config, lambda event: None)
    reasons = [reason for task in pack_tasks(run.work.jobs) for _, reason, _ in worker.run(task, {}, False).outcomes]
    assert set(reasons) == {""}
    assert "does not exist" in inspect_node(replace(config, folders=(f"folder:{tmp_path}/absent",)), "").plugin_error


# Options and nodes that are refused


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "slurm"}, r"^Unknown engine 'slurm'\. Choose local or ray\.$"),
        ({"name": "local", "jobs": 0}, r"^jobs must be a whole number of at least 1; got 0\.$"),
        ({"name": "ray", "jobs": 2}, r"^--jobs is the number of processes on this machine\. .*: leave out --jobs\.$"),
        (
            {"name": "local", "ray_address": "local"},
            r"^--ray-address needs --engine ray\. Add that, or leave out --ray-address\.$",
        ),
    ],
)
def test_conflicting_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_engine(**options)


@pytest.mark.parametrize(
    "count, threads, cores, shared",
    [(2, 2, 4, False), (2, 2, 3, True), (2, 2, 1, True), (64, 1, 64, False), (1, 8, 2, False), (5, 4, 16, True)],
)
def test_processes_with_more_threads_than_cores_are_one_sentence(
    count: int, threads: int, cores: int, shared: bool
) -> None:
    text = processes._oversubscription(count, threads, cores)
    plural = "s" * (cores != 1)
    beginning = f"{count} processes with {threads} threads each share {cores} core{plural}, which changes no number"
    assert text.startswith(beginning) if shared else text == ""
    assert "\n" not in text
    if "--jobs" in text:
        advised = int(text.rpartition("--jobs ")[2].partition(",")[0])
        assert advised * threads <= cores < (advised + 1) * threads
    else:
        assert not shared or cores < threads


def test_jobs_that_oversubscribe_the_machine_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(processes, "_Pool", NothingStartsError)
    run = planned(tmp_path, "msp", ood_sets="greek", jobs=2, threads=2)
    (sentence,) = (line for line in run.engine.layout(run.work.jobs, run.context) if "share" in line)
    assert sentence == (
        "2 processes with 2 threads each share 3 cores, which changes no number; with --jobs 1, every thread has a "
        "core of its own."
    )
    assert not logged
    with pytest.raises(NothingStartsError):
        list(run.engine.run(run.work.jobs, run.context, Quiet(), False))
    assert logged == [sentence]


class NothingStartsError(Exception):
    """Instead of a pool of processes."""

    def __enter__(self) -> None:
        raise self

    def __exit__(self, *_: object) -> None:
        """Never reached."""


def test_without_ray_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    run = planned(tmp_path, "msp", ood_sets="greek", engine="ray")
    with pytest.raises(UserError, match=r"^--engine ray needs Ray: pip install 'oodbench\[ray\]'\.$"):
        run.start()


@pytest.mark.parametrize("address", ["head", "head:port", ":6379", "ray://head:10001"])
def test_invalid_addresses_are_refused(address: str) -> None:
    with pytest.raises(
        UserError, match=r"is not the address of a Ray cluster\. Give HOST:PORT of its head node, or 'local'\."
    ):
        ray_engine._check_address(address)


def test_an_address_without_a_cluster_is_refused() -> None:
    with pytest.raises(UserError, match=r"^No Ray cluster answers at '127\.0\.0\.1:1' \(.*\)\. Start one with "):
        ray_engine._check_address("127.0.0.1:1")


def config_of(folder: Path, **more: Any) -> WorkerConfig:
    return WorkerConfig(folder, folder, "cpu", 1, **more)


def test_a_task_asks_for_a_cpu_per_thread_or_all_of_the_largest_node(tmp_path: Path) -> None:
    engine, nodes = ray_engine.Cluster(gpus=0.5), [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0}]
    for threads, cpus in ((1, 1), (2, 2), (4, 4), (5, 4), (256, 4)):
        config = replace(config_of(tmp_path), threads=threads, device="auto")
        needs = engine._needs_of(config, nodes)
        assert needs == (cpus, 0.5)
        assert isinstance(needs.cpus, int)
        lines = ray_engine._shared_cpus(config, needs)
        assert len(lines) == (threads > 4)
        expected = f"The largest node of the Ray cluster has 4 CPUs for the {threads} threads of a job, which share "
        assert all(line.startswith(expected) and line.count(". ") == 0 for line in lines)
    assert engine._needs_of(config, [{"CPU": 1.0}]) == (1, 0)
    assert engine._needs_of(config, [{"CPU": 0.5}]) == (0.5, 0)


def test_resources_that_no_node_has_are_refused(tmp_path: Path) -> None:
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0}]
    config = replace(config_of(tmp_path), device="cuda")
    with pytest.raises(UserError, match=r"^A job requests 2 GPUs, but the largest node of the Ray cluster has 1\. "):
        ray_engine.Cluster(gpus=2)._needs_of(config, nodes)
    with pytest.raises(UserError, match=r"^No node of the Ray cluster has a CPU, and a job needs one\. Add a node"):
        ray_engine.Cluster()._needs_of(config_of(tmp_path), [{"GPU": 1.0}])


@pytest.mark.parametrize(
    "device, gpus, expected",
    [
        ("auto", 2, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda", 2, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda:1", 2, ["cuda:1"] * 3),
        ("auto", 1, ["auto"] * 3),
        ("cpu", 2, ["cpu"] * 3),
        ("auto", 0, ["auto"] * 3),
    ],
)
def test_processes_take_the_gpus_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, expected: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    found = processes._configs(replace(config_of(tmp_path), device=device), 3)
    assert [config.device for config in found] == expected


def test_gpus_are_requested_if_there_are_some_or_the_user_says_so(tmp_path: Path) -> None:
    engine = ray_engine.Cluster(gpus=0.25)
    for device, gpus, expected in (("auto", 0, 0), ("auto", 2, 0.25), ("cpu", 2, 0), ("cuda", 0, 0.25)):
        nodes = [{"CPU": 2.0}, {"CPU": 2.0, "GPU": float(gpus)}]
        assert engine._gpus_of(replace(config_of(tmp_path), device=device), nodes) == expected


@pytest.mark.parametrize("gpus", [-0.5, 1.5, float("nan"), float("inf")])
def test_gpus_are_a_fraction_of_one_or_a_whole_number(gpus: float) -> None:
    with pytest.raises(UserError, match=r"^gpus is .*; it must be a share of one GPU, such as 0\.25, or"):
        choose_engine("ray", gpus=gpus)


@pytest.mark.parametrize("gpus, expected", [(None, 0.5), (2.0, 2.0), (0.0, 0.0)])
def test_a_suite_sets_the_gpus_of_a_job(tmp_path: Path, gpus: float | None, expected: float) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'oodbench[ray]'")
    suite = tmp_path / "shares.toml"
    text = suite_path(default_suite()).read_text(encoding="utf-8")
    suite.write_text(text.replace("[protocol]", "[protocol]\ngpus = 0.5"), encoding="utf-8")
    run = prepare("msp", suite=str(suite), results=tmp_path / "results", engine="ray", gpus=gpus)
    assert isinstance(run.engine, ray_engine.Cluster)
    assert run.engine.gpus == expected


def test_what_workers_exchange_is_imported_without_torch() -> None:
    parts = ("stages.worker_config", "engines.tasks", "engines.ray_progress", "engines.messages", "engines.engine")
    code = (
        "import sys\n"
        + "".join(f"import oodbench.benchmark.{part}\n" for part in parts)
        + "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


HERE = PlannedCode(tuple(software_here().items()))


def test_a_node_with_other_software_is_refused_with_both_versions() -> None:
    for name in ("Python", "oodbench", "torch", "numpy", "scipy", "torchvision", "scikit-learn", "pillow"):
        info = NodeInfo({**software_here(), name: "0.0.1"})
        message = re.escape(f"{name} is {software_here()[name]} here and 0.0.1 on node b.")
        with pytest.raises(UserError, match=f"^{message}"):
            check_node("b", HERE, info)


def test_a_node_without_access_to_the_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mark").touch()
    shared = inspect_node(config_of(tmp_path), "mark")
    check_node("a", HERE, shared)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "mark"]
    separate = inspect_node(config_of(tmp_path), "absent")
    with pytest.raises(
        StoreError, match=r"^Node b cannot access the results folder '.*'\. Give a folder that all nodes"
    ):
        check_node("b", HERE, separate)


def test_a_node_without_a_plugin_is_refused_with_how_to_distribute_it(tmp_path: Path) -> None:
    (tmp_path / "mark").touch()
    config = config_of(tmp_path, plugins=(tmp_path / "mine.py",))
    with pytest.raises(
        UserError,
        match=r"^Node b cannot load a plug-in or folder of this run: The plug-in file '.*mine\.py' does not exist\..*",
    ):
        check_node("b", HERE, inspect_node(config, "mark"))
