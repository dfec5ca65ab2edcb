"""Shows the progress of a run: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from oodbench.benchmark.cli.streams import note
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.errors import visible
from oodbench.benchmark.plan.jobs import ExtractJob, Job, TrainJob


class Lines(Quiet):
    """Progress as lines, for logs: one per training, or with `verbose` one per job."""

    def __init__(self, total: int, verbose: bool) -> None:
        self._total, self._verbose, self._count = total, verbose, 0
        self._started: dict[str, float] = {}

    def start(self, job: Job) -> None:
        """Remember the time."""
        self._started[job.id] = time.perf_counter()

    def finish(self, job: Job, reason: str) -> None:
        """Print the job with its duration, or with the reason if it failed."""
        self._count += not _is_part(job)
        seconds = time.perf_counter() - self._started.pop(job.id)
        if reason or self._verbose or isinstance(job, TrainJob):
            result = f"failed: {reason}" if reason else f"{seconds:.1f} s"
            note(visible(f"[{self._count}/{self._total}] {job.title}: {result}"))


class Bars(Quiet):
    """Progress as bars with the time left: one for all jobs, and one for each running job."""

    def __init__(self, bars: Progress, jobs: Sequence[Job]) -> None:
        self._bars = bars
        self._total = bars.add_task("all jobs", total=sum(_cost(job) for job in jobs))
        self._current: dict[str, TaskID] = {}

    def start(self, job: Job) -> None:
        """Add the job's bar."""
        self._current[job.id] = self._bars.add_task(visible(job.title), total=job.size)

    def tick(self, job: Job, images: int) -> None:
        """Advance the job's bar and the total."""
        self._bars.advance(self._current[job.id], images)
        self._bars.advance(self._total, images / max(1, job.size) * _cost(job))

    def finish(self, job: Job, reason: str) -> None:
        """Remove the job's bar, and print the reason if the job failed."""
        self._bars.remove_task(self._current.pop(job.id))
        if reason:
            self._bars.console.print(visible(f"failed: {job.title}: {reason}"), markup=False, highlight=False)


def _is_part(job: Job) -> bool:
    """Whether a job is a part of one of the plan's jobs."""
    return isinstance(job, ExtractJob) and job.rows is not None


def _cost(job: Job) -> float:
    """Rough cost, to estimate the time left: training on an image costs about 50 forward passes."""
    return job.size * (50.0 if isinstance(job, TrainJob) else 1.0)


@contextmanager
def watch(jobs: Sequence[Job], verbosity: str) -> Iterator[Quiet]:
    """Progress on standard error: bars on a terminal, lines elsewhere, nothing if `verbosity` is 'quiet'."""
    if verbosity == "quiet" or not jobs:
        yield Quiet()
    elif verbosity == "verbose" or not sys.stderr.isatty():
        yield Lines(len(jobs), verbosity == "verbose")
    else:
        title = TextColumn("{task.description}", markup=False)
        columns = (title, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            yield Bars(bars, jobs)
