"""What an engine is: it does a plan's jobs somewhere and says of each what became of it.

local       jobs in this process (local.py), or, with --jobs N, in several on this machine (processes.py)
ray         on the machines of a Ray cluster (cluster.py)

Engines differ in where and when a job is done, never in what it makes: no key knows of them, so that a run begun with
one goes on with another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from oodbench.benchmark.plan.jobs import Job

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


RETRIES = 3
"""Times that work is begun again whose worker has died; then it counts as failed."""

MOST_THREADS = 8
"""Of a job where the user names no number: small networks gain nothing from more."""


class Outcome(NamedTuple):
    """What became of a job: `reason` is empty if it was done."""

    job: Job
    reason: str = ""
    details: str = ""
    """For the log: the traceback, or what a worker wrote."""


class Report(NamedTuple):
    """What became of a task (tasks.py), as its worker tells it."""

    outcomes: tuple[tuple[str, str, str], ...] = ()
    """Id, reason and details of every job that ended."""
    failed: Mapping[str, str] = {}
    """Reasons of all jobs that failed, here or before, by id."""
    fatal: str = ""
    """Why nothing more can be done at all."""


def remember(failed: dict[str, str], outcome: Outcome) -> None:
    """Note why a job failed, as the jobs after it will tell it."""
    job, reason = outcome.job, outcome.reason
    if reason:
        blocked = any(other in failed for other in job.after)
        failed[job.id] = reason if blocked else f"{job.title}: {reason}"


class Progress(Protocol):
    """Told what is going on; several jobs may be under way at once."""

    def start(self, job: Job) -> None:
        """A job begins."""

    def tick(self, job: Job, images: int) -> None:
        """So many more images of a job have passed."""

    def finish(self, job: Job, reason: str) -> None:
        """A job has ended, with a reason if it failed."""


class Engine(Protocol):
    """Where jobs are done."""

    def run(self, jobs: Sequence[Job], context: JobContext, progress: Progress, force: bool) -> Iterator[Outcome]:
        """Do jobs, given in an order that their dependencies allow; every job's outcome, when it has ended.

        A job after a failed one fails too. `anew`: do jobs as well whose artifacts are in the store. Raises
        `OodbenchError`, before any work, where the jobs cannot be done at all.
        """

    def threads(self, cores: int) -> int:
        """CPU threads of a job where the user names none, on a machine of so many cores."""

    def planning_device(self, asked: str) -> str:
        """The device that the planning process itself needs, of what the user asked for."""

    def layout(self, jobs: Sequence[Job], context: JobContext) -> list[str]:
        """Lines for a dry run: what runs where, with which resources."""


class Quiet:
    """Progress that nobody watches."""

    def start(self, job: Job) -> None:
        """A job begins."""

    def tick(self, job: Job, images: int) -> None:
        """Images have passed."""

    def finish(self, job: Job, reason: str) -> None:
        """A job has ended."""
