"""Merges the messages and reports of many workers into one progress display."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from oodbench.benchmark.data.files.user_folder import adopted
from oodbench.benchmark.engines.engine import Outcome, Progress, Report, remember
from oodbench.benchmark.engines.messages import RELAYED, Event
from oodbench.benchmark.engines.tasks import WorkerTask
from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.worker_config import WorkerConfig

logger = logging.getLogger(RELAYED)


def portable_config(context: JobContext) -> WorkerConfig:
    """The bench's setup as it holds in a process that was started in another folder and has loaded nothing yet."""
    config = context.config
    if config is None:
        raise AssertionError("a bench that other processes are to open has a setup")
    absolute = tuple(Path(file).absolute() for file in config.plugins)
    return replace(
        config, cache=config.cache.absolute(), data_dir=config.data_dir.absolute(), plugins=absolute, folders=adopted()
    )


class Relay:
    """Makes one progress of what many workers post."""

    def __init__(self, progress: Progress, tasks: list[WorkerTask]) -> None:
        self._progress = progress
        self._jobs = {job.id: job for task in tasks for job in task.jobs}
        self._open: set[str] = set()

    def hear(self, event: Event) -> None:
        """Pass an event on."""
        what, text, number = event
        if what == "log":
            logger.log(number, text)
        elif what == "start":
            self._begin(text)
        elif text in self._open:
            self._progress.tick(self._jobs[text], number)

    def outcomes(self, report: Report) -> list[Outcome]:
        """The outcomes of a task that has ended, as told to the progress."""
        if report.fatal:
            raise StoreError(report.fatal)
        ended = [Outcome(self._jobs[id_], reason, details) for id_, reason, details in report.outcomes]
        for outcome in ended:
            self._begin(outcome.job.id)
            self._open.discard(outcome.job.id)
            self._progress.finish(outcome.job, outcome.reason)
        return ended

    def _begin(self, id_: str) -> None:
        if id_ not in self._open:  # one whose worker has died begins twice
            self._open.add(id_)
            self._progress.start(self._jobs[id_])


def lost_task_report(task: WorkerTask, context: JobContext, failed: Mapping[str, str], reason: str) -> Report:
    """The report of a task whose workers have died: what it had not finished fails."""
    known = dict(failed)
    told: list[tuple[str, str, str]] = []
    for job in task.jobs:
        blocked = next((known[other] for other in job.after if other in known), "")
        done = not blocked and all(context.store.has(key, now=True) for key in job.makes)
        outcome = Outcome(job, "" if done else blocked or reason)
        remember(known, outcome)
        told.append((job.id, outcome.reason, ""))
    return Report(tuple(told), known)
