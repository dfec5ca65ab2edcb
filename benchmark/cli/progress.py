"""What the terminal shows while a run goes on, before it (the plan) and after it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.errors import visible
from oodbench.benchmark.plan.jobs import ExtractJob, Job, TrainJob


class Lines(Quiet):
    """Plain lines, for logs: one a training, and with `verbose` one a job."""

    def __init__(self, total: int, verbose: bool) -> None:
        self._total, self._verbose, self._count = total, verbose, 0
        self._started: dict[str, float] = {}

    def start(self, job: Job) -> None:
        """Note the time."""
        self._started[job.id] = time.perf_counter()

    def finish(self, job: Job, reason: str) -> None:
        """Write what was done, or why not."""
        self._count += not _is_part(job)
        seconds = time.perf_counter() - self._started.pop(job.id)
        if reason or self._verbose or isinstance(job, TrainJob):
            text = f"[{self._count}/{self._total}] {job.title}: " + (
                f"failed: {reason}" if reason else f"{seconds:.1f} s"
            )
            click.echo(visible(text), err=True)


class Bars(Quiet):
    """Bars on a terminal, each with its time left: the jobs of the matrix, and the images of each job under way."""

    def __init__(self, bars: Progress, jobs: Sequence[Job]) -> None:
        self._bars = bars
        self._matrix = bars.add_task("all jobs", total=sum(_cost(job) for job in jobs))
        self._current: dict[str, TaskID] = {}

    def start(self, job: Job) -> None:
        """Begin the job's bar."""
        self._current[job.id] = self._bars.add_task(visible(job.title), total=job.size)

    def tick(self, job: Job, images: int) -> None:
        """Move both bars."""
        self._bars.advance(self._current[job.id], images)
        self._bars.advance(self._matrix, images / max(1, job.size) * _cost(job))

    def finish(self, job: Job, reason: str) -> None:
        """Remove the job's bar, and say what failed."""
        self._bars.remove_task(self._current.pop(job.id))
        if reason:
            self._bars.console.print(visible(f"failed: {job.title}: {reason}"), markup=False, highlight=False)


def _is_part(job: Job) -> bool:
    """Whether it is a part of a job of the plan, rather than one itself."""
    return isinstance(job, ExtractJob) and job.rows is not None


def _cost(job: Job) -> float:
    """Rough cost for the time left: an image costs some fifty times more in training than in a forward pass."""
    return job.size * (50.0 if isinstance(job, TrainJob) else 1.0)


@contextmanager
def watch(jobs: Sequence[Job], verbosity: str) -> Iterator[Quiet]:
    """Progress fit for where the output goes: bars on a terminal, lines elsewhere, nothing if quiet."""
    if verbosity == "quiet" or not jobs:
        yield Quiet()
    elif verbosity == "verbose" or not sys.stderr.isatty():
        yield Lines(len(jobs), verbosity == "verbose")
    else:
        title = TextColumn("{task.description}", markup=False)
        columns = (title, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            yield Bars(bars, jobs)
