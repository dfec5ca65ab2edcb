"""The other end: a process, on this machine or another, that does tasks with a bench of its own."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

from oodbench.benchmark.engines.engine import Outcome, Progress, Report, remember
from oodbench.benchmark.engines.local import run_jobs
from oodbench.benchmark.engines.tasks import Task
from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.files.folder import adopted
from oodbench.benchmark.jobs import Job
from oodbench.benchmark.setups import Setup
from oodbench.benchmark.work import Bench, open_bench

PAUSE = 0.5
"""Seconds between two messages on how far a job is."""

LONGEST = 1000
"""Characters of a message, so that it goes through a pipe in one piece."""

Event = tuple[str, str, int]
"""What a worker posts: 'start', a job's id, 0; 'tick', a job's id, images; 'say', a sentence, 0."""

Post = Callable[[Event], object]


class Reporter:
    """Posts what goes on, not too often."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._images, self._posted = 0, time.perf_counter()

    def start(self, job: Job) -> None:
        """A job begins."""
        self._images, self._posted = 0, time.perf_counter()
        self._post(("start", job.id, 0))

    def tick(self, job: Job, images: int) -> None:
        """Images have passed."""
        self._images += images
        if time.perf_counter() - self._posted >= PAUSE:
            self._flush(job)

    def finish(self, job: Job, reason: str) -> None:
        """A job has ended; its outcome is told in the report."""
        if self._images:
            self._flush(job)

    def _flush(self, job: Job) -> None:
        self._post(("tick", job.id, self._images))
        self._images, self._posted = 0, time.perf_counter()


class Worker:
    """Opens the bench at its first task and keeps it, with the networks that it has loaded."""

    def __init__(self, setup: Setup, post: Post) -> None:
        self.setup, self.post = setup, post
        self._bench: Bench | None = None

    def do(self, task: Task, failed: Mapping[str, str], anew: bool) -> Report:
        """Do a task's jobs; `failed`: jobs before it that failed, and why."""
        log, known = io.StringIO(), dict(failed)
        told: list[tuple[str, str, str]] = []
        with redirect_stdout(log), redirect_stderr(log):
            try:
                if self._bench is None:
                    self._bench = open_bench(self.setup, self._say)
                for outcome in run_jobs(task.jobs, self._bench, Reporter(self.post), anew, failed):
                    remember(known, outcome)
                    told.append((outcome.job.id, outcome.reason, outcome.details + log.getvalue()))
                    log.seek(log.truncate(0))
            except StoreError as error:
                return Report(tuple(told), known, str(error))
        return Report(tuple(told), known)

    def _say(self, text: str) -> None:
        self.post(("say", text[:LONGEST], 0))


def elsewhere(bench: Bench) -> Setup:
    """The bench's setup as it holds in a process that was started in another folder and has loaded nothing yet."""
    setup = bench.setup
    if setup is None:
        raise AssertionError("a bench that other processes are to open has a setup")
    absolute = tuple(Path(file).absolute() for file in setup.plugins)
    return replace(
        setup, cache=setup.cache.absolute(), data_dir=setup.data_dir.absolute(), plugins=absolute, folders=adopted()
    )


class Relay:
    """Makes one progress of what many workers post."""

    def __init__(self, progress: Progress, tasks: list[Task], say: Callable[[str], None]) -> None:
        self._progress, self._say = progress, say
        self._jobs = {job.id: job for task in tasks for job in task.jobs}
        self._open: set[str] = set()

    def hear(self, event: Event) -> None:
        """Pass an event on."""
        what, text, images = event
        if what == "say":
            self._say(text)
        elif what == "start":
            self._begin(text)
        elif text in self._open:
            self._progress.tick(self._jobs[text], images)

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


def gone(task: Task, bench: Bench, failed: Mapping[str, str], reason: str) -> Report:
    """The report of a task whose workers have died: what it had not finished fails."""
    known = dict(failed)
    told: list[tuple[str, str, str]] = []
    for job in task.jobs:
        blocked = next((known[other] for other in job.after if other in known), "")
        done = not blocked and all(bench.store.has(key, now=True) for key in job.makes)
        outcome = Outcome(job, "" if done else blocked or reason)
        remember(known, outcome)
        told.append((job.id, outcome.reason, ""))
    return Report(tuple(told), known)
