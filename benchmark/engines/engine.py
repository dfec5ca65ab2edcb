"""The interface of engines, which run a plan's jobs and report the outcome of each.

local       jobs run in this process (local.py) or, with --jobs N, in several on this machine (processes.py)
ray         jobs run on the machines of a Ray cluster (ray_engine.py)

Engines differ in where and when a job runs, never in what it computes: the engine is in no key, so that a run started
with one engine can be continued with another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.plan.tuning.jobs import only_tries
from oodbench.benchmark.stages.training.epoch_values import EpochValues

if TYPE_CHECKING:
    from oodbench.benchmark.records.record import Record
    from oodbench.benchmark.stages.context import JobContext


RETRIES = 3
"""How often a task is started again after its worker has died, before it counts as failed."""


class Outcome(NamedTuple):
    """The outcome of a job; `reason` is empty if it succeeded."""

    job: Job
    reason: str = ""
    details: str = ""
    """For the log: the traceback and what a worker printed."""


class Report(NamedTuple):
    """A worker's report on a task (tasks.py)."""

    outcomes: tuple[tuple[str, str, str], ...] = ()
    """Id, reason and details of every job that has ended."""
    failed: Mapping[str, str] = {}
    """Why jobs failed, in this task or an earlier one, by id."""
    fatal: str = ""
    """Why the whole run has to stop; empty if it does not."""


def remember(failed: dict[str, str], outcome: Outcome) -> None:
    """Record why a job failed, as the jobs that depend on it will report it."""
    job, reason = outcome.job, outcome.reason
    if reason:
        blocked = any(other in failed for other in job.requires)
        failed[job.id] = reason if blocked else f"{job.title}: {reason}"


def shown_reason(job: Job, reason: str) -> str:
    """The reason of a failure as displays show it; empty for settings that were tried, of which the choice reports."""
    return "" if only_tries(job) else reason


class Progress(Protocol):
    """Callbacks for progress displays; several jobs may run at once."""

    def start(self, job: Job) -> None:
        """Called when a job starts."""

    def tick(self, job: Job, images: int) -> None:
        """Called when a job has processed this many more images."""

    def finish(self, job: Job, reason: str) -> None:
        """Called when a job has ended, with a reason if it failed."""


@runtime_checkable
class TrainingProgress(Protocol):
    """Progress that shows how trainings go. Optional, as `RunProgress` is."""

    def training(self, job: Job, values: EpochValues) -> None:
        """Called now and then while a network trains, with its losses."""


def show_training(progress: object, job: Job, values: EpochValues) -> None:
    """Show how a training goes, if `progress` can."""
    if isinstance(progress, TrainingProgress):
        progress.training(job, values)


@runtime_checkable
class RunProgress(Progress, Protocol):
    """Progress that follows the whole run. Optional: what has only the methods of `Progress` is called for jobs."""

    def cell(self, record: Record) -> None:
        """Called when the record of a cell has been written."""

    def phase(self, text: str) -> None:
        """Called when something begins that is no job, with its name for people, such as 'writing tables'."""


class Engine(Protocol):
    """Runs jobs somewhere."""

    def run(self, jobs: Sequence[Job], context: JobContext, progress: Progress, force: bool) -> Iterator[Outcome]:
        """Run jobs, given in an order that respects their dependencies; yields each job's outcome once it has ended.

        A job that depends on a failed one fails too. `force`: also run jobs whose artifacts are in the store. Raises
        `OodbenchError`, before any work, if the jobs cannot run at all.
        """

    def planning_device(self, requested: str) -> str:
        """The device that the planning process itself uses, given the one that the user requested."""

    def layout(self, jobs: Sequence[Job], context: JobContext) -> list[str]:
        """Lines for a dry run: which jobs run where, with which resources."""


class Quiet:
    """Progress that displays nothing."""

    def start(self, job: Job) -> None:
        """Do nothing."""

    def tick(self, job: Job, images: int) -> None:
        """Do nothing."""

    def finish(self, job: Job, reason: str) -> None:
        """Do nothing."""

    def training(self, job: Job, values: EpochValues) -> None:
        """Do nothing."""

    def cell(self, record: Record) -> None:
        """Do nothing."""

    def phase(self, text: str) -> None:
        """Do nothing."""


def following(progress: Progress) -> RunProgress:
    """Progress that follows the whole run, whether or not `progress` does."""
    return progress if isinstance(progress, RunProgress) else _OfJobs(progress)


class _OfJobs(Quiet):
    """Passes on what concerns jobs, and nothing else."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def start(self, job: Job) -> None:
        """Pass on."""
        self._progress.start(job)

    def tick(self, job: Job, images: int) -> None:
        """Pass on."""
        self._progress.tick(job, images)

    def finish(self, job: Job, reason: str) -> None:
        """Pass on."""
        self._progress.finish(job, reason)

    def training(self, job: Job, values: EpochValues) -> None:
        """Pass on, if the progress takes it."""
        show_training(self._progress, job, values)
