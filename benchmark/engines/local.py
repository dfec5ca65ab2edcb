"""Jobs in this process, one after the other."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from oodbench.benchmark.errors import OodbenchError, StoreError, visible
from oodbench.benchmark.jobs import Job
from oodbench.benchmark.work import Bench


class Outcome(NamedTuple):
    """What became of a job: `reason` is empty if it was done."""

    job: Job
    reason: str = ""
    details: str = ""
    """The traceback, for the log."""


class Progress(Protocol):
    """Told what is going on."""

    def start(self, job: Job) -> None:
        """A job begins."""

    def tick(self, images: int) -> None:
        """So many images of the current job have passed."""

    def finish(self, job: Job, reason: str) -> None:
        """A job has ended, with a reason if it failed."""


def run_jobs(jobs: Iterable[Job], bench: Bench, progress: Progress) -> Iterator[Outcome]:
    """Do jobs in the given order, which is one that their dependencies allow; a job after a failed one fails too."""
    failed: dict[str, str] = {}
    for job in jobs:
        blocked = next((failed[other] for other in job.after if other in failed), "")
        progress.start(job)
        outcome = Outcome(job, blocked) if blocked else _attempt(job, bench, progress)
        if outcome.reason:
            failed[job.id] = outcome.reason if blocked else f"{job.title}: {outcome.reason}"
        progress.finish(job, outcome.reason)
        yield outcome


def _attempt(job: Job, bench: Bench, progress: Progress) -> Outcome:
    try:
        bench.do(job, progress.tick)
    except StoreError:
        raise  # nothing can be kept any more: stop, rather than fail every cell
    except OodbenchError as error:
        return Outcome(job, str(error), traceback.format_exc())
    except Exception as error:  # a plug-in may raise anything; its own cells fail, the rest goes on
        text = visible(str(error).strip().partition("\n")[0])
        return Outcome(job, f"{type(error).__name__}: {text}" if text else type(error).__name__, traceback.format_exc())
    return Outcome(job)
