"""Estimates what jobs take from what other jobs took: of the same class, else of the same kind, else of any kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from oodbench.benchmark.plan.jobs import (
    ExtractJob,
    FitJob,
    HeadJob,
    Job,
    ReduceMapsJob,
    ScoreJob,
    TrainJob,
)
from oodbench.benchmark.plan.tuning.jobs import TuneJob

FIXED = 0.03
"""Seconds of every job, whatever its size and network: opening and writing files."""

UNITS = {"train": 3.0, "head": 0.5, "extract": 1.0, "fit": 0.05, "tune": 0.001, "score": 0.02}
"""Units of one image, by kind of job: a forward pass is 1. Only ratios matter, and only until jobs were measured."""

DOUBT = 2.0
"""Seconds of measurement at which what a class took and what was expected of it count alike."""


class JobClass(NamedTuple):
    """Jobs that take about as long for each unit."""

    kind: str
    what: str = ""
    """The recipe, network or detector."""


def class_of(job: Job) -> JobClass:
    """The class of a job."""
    if isinstance(job, TrainJob):
        return JobClass("train", f"{job.checkpoint.recipe} {job.checkpoint.backbone}")
    if isinstance(job, HeadJob):
        return JobClass("head", job.checkpoint.recipe)
    if isinstance(job, ExtractJob):
        return JobClass("extract", "" if job.features_stored else job.checkpoint.backbone)
    if isinstance(job, ScoreJob) and job.bank is not None:
        return JobClass("score", "similarities")  # the first of a set computes those of the others
    if isinstance(job, TuneJob | FitJob | ScoreJob):
        return JobClass(job.kind, job.detectors[0].partition("[")[0])
    return JobClass(job.kind)


def units_of(job: Job) -> float:
    """What a job takes, in forward passes of one image, as far as its description tells; without `FIXED`."""
    if isinstance(job, ReduceMapsJob):
        return 0.0  # done in the pass of its set
    return UNITS.get(class_of(job).kind, 0.0) * job.size + float(getattr(job, "passes", 0))


class Work(NamedTuple):
    """An amount of work: a number of jobs, or a part of one, and their units."""

    jobs: float = 0.0
    units: float = 0.0

    def __add__(self, other: object) -> Work:
        """The sum of two amounts."""
        assert isinstance(other, Work)
        return Work(self.jobs + other.jobs, self.units + other.units)

    def times(self, share: float) -> Work:
        """A share of it; negative to take it away."""
        return Work(self.jobs * share, self.units * share)

    def expected(self, unit: float) -> float:
        """Seconds, if a unit takes `unit` seconds; at least 0."""
        return max(0.0, self.jobs * FIXED + self.units * unit)


def work_of(job: Job) -> Work:
    """The work of one job."""
    return Work(1.0, units_of(job))


class Costs:
    """What jobs took, by class, and what others will take. All times are in seconds.

    What is expected of a class is what its units would take at the rate of everything that was measured. That is
    multiplied by what jobs of the kind, and of the class, took in truth of what was expected of them.
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[JobClass, float] = defaultdict(float)
        self._work: defaultdict[JobClass, Work] = defaultdict(Work)

    def copy(self) -> Costs:
        """Costs that can be added to without changing these."""
        other = Costs()
        other._seconds, other._work = self._seconds.copy(), self._work.copy()
        return other

    def add(self, of: JobClass, work: Work, seconds: float) -> None:
        """Add a measurement: some work of a class took so many seconds."""
        self._seconds[of] += seconds
        self._work[of] += work

    @property
    def seconds(self) -> float:
        """All seconds that were measured."""
        return sum(self._seconds.values())

    def estimate(self, left: Mapping[JobClass, Work]) -> float | None:
        """Seconds for some work of each class; None if nothing has been measured."""
        if not self.seconds:
            return None
        done = sum(self._work.values(), Work())
        unit = max(0.0, self.seconds - FIXED * done.jobs) / done.units if done.units else 0.0
        kinds = {kind: self._of_kind(kind, unit) for kind in {of.kind for of in left}}
        return sum(work.expected(unit) * self._of_class(of, unit, kinds[of.kind]) for of, work in left.items())

    def _of_kind(self, kind: str, unit: float) -> float:
        same = [of for of in self._work if of.kind == kind]
        return _ratio(sum(self._seconds[of] for of in same), sum(self._work[of].expected(unit) for of in same), 1.0)

    def _of_class(self, of: JobClass, unit: float, of_kind: float) -> float:
        return _ratio(self._seconds[of], self._work[of].expected(unit), of_kind)


def _ratio(seconds: float, expected: float, otherwise: float) -> float:
    """Seconds to those expected, drawn to another ratio as long as little was measured."""
    return (seconds + DOUBT) / (expected + DOUBT / otherwise)
