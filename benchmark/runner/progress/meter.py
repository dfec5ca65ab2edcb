"""Counts what a run has done: the stage, jobs, images per second, and an estimate of the time left."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from oodbench.benchmark.errors import visible
from oodbench.benchmark.plan.jobs import ExtractJob, Job
from oodbench.benchmark.runner.progress.costs import Costs, JobClass, Work, class_of, work_of
from oodbench.benchmark.stages.training.epoch_values import EpochValues

STAGES = {
    "train": "training",
    "import": "reading what is given",
    "extract": "passing images",
    "reduce": "passing images",
    "tune": "choosing settings",
    "fit": "fitting",
    "score": "scoring",
}
"""Kind of job -> what a display calls the stage."""

WINDOW = 10.0
"""Seconds over which images per second are averaged."""

FIRST_ESTIMATE = 5.0
"""Seconds of work before the first estimate of the time left: networks are loaded in the first."""

FIRST_SHARE, SOON = 0.01, 60.0
"""Share of the work that must be done before the first estimate, unless so many seconds have passed."""


class Snapshot(NamedTuple):
    """What a display shows."""

    stage: str = ""
    """What is being done, such as 'training'; empty before the first job."""
    stage_done: int = 0
    stage_jobs: int = 0
    """Jobs of that stage; 0 where it has no jobs, such as while tables are written."""
    done: int = 0
    jobs: int = 0
    images_per_second: float = 0.0
    elapsed: float = 0.0
    """Seconds since the display began."""
    left: float | None = None
    """Seconds that the remaining jobs will take; None while nobody can know."""
    share: float = 0.0
    """Of the work, in [0, 1]; never decreases."""
    running: tuple[tuple[str, float | None], ...] = ()
    """Title and share of every running job, the longest first; no share for a job that counts no images."""
    training: tuple[str, ...] = ()
    """For every running job how its training goes, such as 'epoch 3 of 10, cross entropy 0.07'; empty for others."""


@dataclass
class _Running:
    job: Job
    started: float
    images: int = 0
    training: str = ""

    @property
    def share(self) -> float:
        """Share of its images."""
        return min(1.0, self.images / self.job.size) if self.job.size else 0.0


@dataclass
class _Stage:
    jobs: int = 0
    done: int = 0
    ticks: deque[tuple[float, int]] = field(default_factory=deque)
    """Time and number of images, of the last `WINDOW` seconds."""


class Meter:
    """Follows the jobs of a run. Its methods may be called from several threads.

    The seconds of a job are spread over its class (`costs`), and divided by the number of jobs that run at once on
    average, so that one estimate serves every engine.
    """

    def __init__(self, jobs: Sequence[Job], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.RLock()
        self._left = {job.id: (class_of(job), work_of(job)) for job in jobs}
        self._jobs = len(self._left)
        self._stages = {kind: _Stage() for kind in STAGES}
        for job in jobs:
            self._stage_of(job).jobs += 1
        self._costs, self._parts = Costs(), defaultdict[JobClass, Work](Work)
        self._running: dict[str, _Running] = {}
        self._began, self._first_job = clock(), math.inf
        self._kind, self._phase, self._share = "", "", 0.0

    def start(self, job: Job) -> None:
        """A job starts."""
        with self._lock:
            now = self._clock()
            self._first_job = min(self._first_job, now)
            self._running[job.id] = _Running(job, now)

    def tick(self, job: Job, images: int) -> None:
        """A job has processed so many more images."""
        with self._lock:
            if job.id in self._running:
                self._running[job.id].images += images
            self._stage_of(job).ticks.append((self._clock(), images))

    def training(self, job: Job, values: EpochValues) -> None:
        """A training says how it goes."""
        with self._lock:
            if job.id in self._running:
                self._running[job.id].training = visible(values.text())

    def finish(self, job: Job) -> None:
        """A job has ended, whatever its outcome."""
        with self._lock:
            ended = self._running.pop(job.id)
            of, work, parts = class_of(job), work_of(job), getattr(job, "parts", ())
            self._costs.add(of, Work() if parts else work, self._clock() - ended.started)
            if is_part(job):
                self._parts[of] += Work(units=work.units)
            else:
                self._parts[of] += sum(map(work_of, parts), Work())._replace(jobs=0.0).times(-1)
                self._left.pop(job.id, None)
                self._stage_of(job).done += 1

    def phase(self, text: str) -> None:
        """No job runs any more, and something else begins, such as the writing of tables."""
        with self._lock:
            self._phase = text

    def snapshot(self) -> Snapshot:
        """How things stand."""
        with self._lock:
            now = self._clock()
            elapsed, done = now - self._began, self._jobs - len(self._left)
            if self._phase:
                return Snapshot(self._phase, done=done, jobs=self._jobs, elapsed=elapsed, share=1.0)
            running = sorted(self._running.values(), key=lambda one: one.started)
            left = self._seconds_left(running, now)
            if running:
                self._kind = running[0].job.kind
            stage = self._stages.get(self._kind, _Stage())
            titles = tuple((visible(r.job.title), r.share if r.images else None) for r in running)
            return Snapshot(
                STAGES.get(self._kind, self._kind),
                stage.done,
                stage.jobs,
                done,
                self._jobs,
                _per_second(stage.ticks, now),
                elapsed,
                left if self._is_known(now, left) else None,
                self._share,
                titles,
                tuple(r.training for r in running),
            )

    def _stage_of(self, job: Job) -> _Stage:
        return self._stages.setdefault(job.kind, _Stage())

    def _seconds_left(self, running: list[_Running], now: float) -> float | None:
        """Seconds until all jobs have ended, and on the way the share of the work that is done."""
        costs, left = self._costs.copy(), defaultdict[JobClass, Work](Work)
        for of, work in self._left.values():
            left[of] += work
        for of, work in self._parts.items():  # of passes that are not joined yet
            left[of] += work.times(-1)
        longest, under_way = 0.0, 0.0
        for one in running:
            of, work = class_of(one.job), work_of(one.job)
            seconds = now - one.started
            under_way += seconds
            if one.share:
                costs.add(of, work.times(one.share), seconds)
                longest = max(longest, seconds / one.share - seconds)
            left[of] += work.times(-one.share)
        to_do = costs.estimate(left)
        if to_do is None:
            return None
        busy = self._costs.seconds + under_way
        self._share = max(self._share, min(1.0, busy / (busy + to_do)) if busy + to_do else 0.0)
        at_once = max(busy / max(now - self._first_job, 1e-9), 1e-9)
        return max(to_do / at_once, longest)

    def _is_known(self, now: float, left: float | None) -> bool:
        """Whether an estimate deserves to be shown."""
        if left is None or now - self._first_job < FIRST_ESTIMATE:
            return False
        return self._share >= FIRST_SHARE or now - self._first_job >= SOON


def is_part(job: Job) -> bool:
    """Whether a job is a part of one of the plan's jobs."""
    return isinstance(job, ExtractJob) and job.rows is not None


def _per_second(ticks: deque[tuple[float, int]], now: float) -> float:
    """Images per second over the last `WINDOW` seconds; 0 if there are too few to tell."""
    while ticks and now - ticks[0][0] > WINDOW:
        ticks.popleft()
    if len(ticks) < 2 or now <= ticks[0][0]:
        return 0.0
    return sum(images for _, images in list(ticks)[1:]) / (now - ticks[0][0])


def about(seconds: float) -> str:
    """A time left in words, no more exact than an estimate is."""
    minutes = seconds / 60
    if seconds < 10:
        return "a few seconds left"
    if seconds < 55:
        return f"about {10 * round(seconds / 10)} s left"
    if minutes < 20:
        return f"about {max(1, round(minutes))} min left"
    if minutes < 120:
        return f"about {5 * round(minutes / 5)} min left"
    if minutes < 36 * 60:
        return f"about {minutes / 60:.1f} h left"
    return f"about {minutes / 60 / 24:.1f} days left"


def clock_text(seconds: float) -> str:
    """A time that has passed: '0:07', '12:31', '3:02:11'."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def facts(now: Snapshot) -> list[str]:
    """What every display says about a snapshot, as short texts."""
    stage = f"{now.stage} {min(now.stage_done + 1, now.stage_jobs):,} of {now.stage_jobs:,}" if now.stage_jobs else ""
    found = [stage or now.stage or "preparing", f"{now.done:,} of {now.jobs:,} jobs"]
    if now.images_per_second >= 1:
        found.append(f"{now.images_per_second:,.0f} images/s")
    found.append(clock_text(now.elapsed))
    if now.left is not None:
        found.append(about(now.left))
    return found
