"""Merges the events and reports of many workers into one progress display."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from oodbench.benchmark.data.own_sets import adopted
from oodbench.benchmark.engines.engine import Outcome, Progress, Report, remember, show_training, shown_reason
from oodbench.benchmark.engines.messages import RELAYED, Event
from oodbench.benchmark.engines.same_code import planned_code
from oodbench.benchmark.engines.tasks import WorkerTask
from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.plugins.networks.places import adopted_backbones
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.worker_config import WorkerConfig

logger = logging.getLogger(RELAYED)


def portable_config(context: JobContext, jobs: Iterable[Job]) -> WorkerConfig:
    """The context's configuration for another process, which may run in another folder and has loaded no plug-ins.

    It has the code that the jobs were planned with, which the other process must have as well.
    """
    config = context.config
    if config is None:
        raise AssertionError("a job context that other processes open must have a configuration")
    absolute = tuple(Path(file).absolute() for file in config.plugins)
    code = planned_code(jobs)
    return replace(
        config,
        cache=config.cache.absolute(),
        data_dir=config.data_dir.absolute(),
        plugins=absolute,
        folders=adopted(),
        networks=adopted_backbones(used.name for used in code.plugins),
        code=code,
    )


class Relay:
    """Passes the events of all workers on to one `Progress`.

    A job counts as started and as finished once, even if its worker dies. One that succeeded is finished when its
    worker says so, not when the task ends that it is a part of; an event that is lost is made up for by the report.
    """

    def __init__(self, progress: Progress, tasks: list[WorkerTask]) -> None:
        self._progress = progress
        self._jobs = {job.id: job for task in tasks for job in task.jobs}
        self._open: set[str] = set()
        self._ended: set[str] = set()

    def handle(self, event: Event) -> None:
        """Display or log one event."""
        kind, text, number = event
        if kind == "log":
            logger.log(number, text)
        elif kind == "start":
            self._start(text)
        elif kind == "done":
            self._finish(text, "")
        elif kind == "training":
            if text in self._open:
                show_training(self._progress, self._jobs[text], number)
        elif text in self._open:
            self._progress.tick(self._jobs[text], number)

    def outcomes(self, report: Report) -> list[Outcome]:
        """The outcomes of a finished task, which are also displayed. Raises `StoreError` if the run has to stop."""
        if report.fatal:
            raise StoreError(report.fatal)
        ended = [Outcome(self._jobs[id_], reason, details) for id_, reason, details in report.outcomes]
        for outcome in ended:
            self._finish(outcome.job.id, outcome.reason)
        return ended

    def _start(self, id_: str) -> None:
        if id_ not in self._open and id_ not in self._ended:  # a job whose worker has died starts twice
            self._open.add(id_)
            self._progress.start(self._jobs[id_])

    def _finish(self, id_: str, reason: str) -> None:
        if id_ not in self._ended:
            self._start(id_)
            self._open.discard(id_)
            self._ended.add(id_)
            self._progress.finish(self._jobs[id_], shown_reason(self._jobs[id_], reason))


def lost_task_report(task: WorkerTask, context: JobContext, failed: Mapping[str, str], reason: str) -> Report:
    """The report on a task whose workers have died: the jobs that are not finished fail with `reason`."""
    all_failed = dict(failed)
    outcomes: list[tuple[str, str, str]] = []
    for job in task.jobs:
        blocked = next((all_failed[other] for other in job.requires if other in all_failed), "")
        done = not blocked and all(context.store.has(key, now=True) for key in job.makes)
        outcome = Outcome(job, "" if done else blocked or reason)
        remember(all_failed, outcome)
        outcomes.append((job.id, outcome.reason, ""))
    return Report(tuple(outcomes), all_failed)
