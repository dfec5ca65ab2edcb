"""Progress as lines, for logs: few, however long the run is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from oodbench.benchmark.cli.streams import note
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.errors import visible
from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.runner.progress.failures import Failures
from oodbench.benchmark.runner.progress.meter import Meter, facts, is_part
from oodbench.benchmark.runner.progress.standing import Standing
from oodbench.benchmark.stages.training.epoch_values import EpochValues

EVERY, SHARE = 30.0, 0.05
"""A line follows another after so many seconds, or after this share of the time so far if that is longer."""


class Lines(Quiet):
    """A line where a stage begins for the first time, and then at most one every `EVERY` seconds.

    With `verbose` a line for each job, with its duration. Failures are named in both, once for each reason.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        standing: Standing,
        verbose: bool = False,
        write: Callable[[str], object] = note,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._meter, self._standing, self._verbose = Meter(jobs, clock), standing, verbose
        self._write, self._clock, self._failures = write, clock, Failures()
        self._total, self._count = len(jobs), 0
        self._started: dict[str, float] = {}
        self._stages: set[str] = set()
        self._began, self._last = clock(), clock()

    def start(self, job: Job) -> None:
        """Remember the time, and say which stage begins."""
        self._started[job.id] = self._clock()
        self._meter.start(job)
        self._say()

    def tick(self, job: Job, images: int) -> None:
        """Say how things stand if it is time."""
        self._meter.tick(job, images)
        if self._is_time():
            self._say()

    def training(self, job: Job, values: EpochValues) -> None:
        """Say how things stand if it is time: the losses are a part of it."""
        self._meter.training(job, values)
        if self._is_time():
            self._say()

    def finish(self, job: Job, reason: str) -> None:
        """Say why the job failed, or with `verbose` how long it took."""
        self._count += not is_part(job)
        self._meter.finish(job)
        seconds = self._clock() - self._started.pop(job.id)
        if self._verbose:
            result = f"failed: {reason}" if reason else f"{seconds:.1f} s"
            self._write(visible(f"[{self._count}/{self._total}] {job.title}: {result}"))
        elif reason and (text := self._failures.text(job, reason)):
            self._write(text)
        elif self._is_time():
            self._say()

    def cell(self, record: Record) -> None:
        """Take in a finished cell."""
        self._standing.add(record)

    def phase(self, text: str) -> None:
        """Say what begins."""
        self._meter.phase(text)
        self._say()

    def end(self) -> None:
        """Say what is still to be said."""
        if rest := self._failures.rest():
            self._write(rest)

    def _is_time(self) -> bool:
        now = self._clock()
        return now - self._last >= max(EVERY, SHARE * (now - self._began))

    def _say(self) -> None:
        """Write how things stand, if the stage is new or it is time."""
        if self._verbose:
            return
        state = self._meter.snapshot()
        if state.stage in self._stages and not self._is_time():
            return
        self._stages.add(state.stage)
        self._last = self._clock()
        stage, *texts = facts(state)
        training = next(filter(None, state.training), "")
        best = self._standing.line()
        more = [training, f"best so far on {best}" if best else ""]
        self._write("; ".join(filter(None, [", ".join([stage, *texts]), *more])))
