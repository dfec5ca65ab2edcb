"""Jobs in this process, one after the other; other processes with the same jobs and the same store take turns.

Workers of the other engines do their tasks with this, too.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from oodbench.benchmark.engines.engine import MOST_THREADS, Outcome, Progress, remember
from oodbench.benchmark.engines.time_limit import TimeIsUp, time_limit
from oodbench.benchmark.errors import OodbenchError, StoreError, visible
from oodbench.benchmark.plan.jobs import ExtractJob, FitJob, Job, ScoreJob, TuneJob, waits_for
from oodbench.benchmark.stages import memory
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.dispatch import run_job
from oodbench.benchmark.store.locks import POLL, Lock

logger = logging.getLogger(__name__)

DETECTORS_OWN = (TuneJob, FitJob, ScoreJob)
"""Jobs that run a detector's code and nothing else that takes long: those that --cell-timeout limits."""


class Local:
    """The engine of a single process."""

    def threads(self, cores: int) -> int:
        """All cores, at most `MOST_THREADS`."""
        return max(1, min(cores, MOST_THREADS))

    def run(self, jobs: Sequence[Job], context: JobContext, progress: Progress, force: bool) -> Iterator[Outcome]:
        """Do jobs one after the other."""
        return run_jobs(jobs, context, progress, force)

    def planning_device(self, asked: str) -> str:
        """The one that jobs run on."""
        return asked

    def layout(self, jobs: Sequence[Job], context: JobContext) -> list[str]:
        """Nothing to add to the list of jobs."""
        return []


def run_jobs(
    jobs: Iterable[Job],
    context: JobContext,
    progress: Progress,
    force: bool = False,
    failed: Mapping[str, str] | None = None,
) -> Iterator[Outcome]:
    """Do jobs in the given order, which is one that their dependencies allow; a job after a failed one fails too.

    A job that another process is doing is put off, and not done again when it is done; `anew` does it all the same.
    `failed`: jobs done elsewhere that failed, and why.
    """
    failed = dict(failed or {})
    left = {job.id: job for job in jobs}
    while left:
        job, lock = _claimed(left, context)
        del left[job.id]
        try:
            blocked = next((failed[other] for other in job.after if other in failed), "")
            progress.start(job)
            outcome = Outcome(job, blocked) if blocked else _done(job, context, progress, force)
        finally:
            lock.release()
        remember(failed, outcome)
        progress.finish(job, outcome.reason)
        yield outcome


def _claimed(left: Mapping[str, Job], context: JobContext) -> tuple[Job, Lock]:
    """The first job that waits for none of those left and that no other process is doing, with its lock."""
    told = False
    while True:
        ready = (job for job in left.values() if not waits_for(job) & left.keys())
        for job in ready:
            if (lock := context.store.locks.attempt(f"job-{job.id[:16]}")) is not None:
                return job, lock
        if not told:
            told = True
            logger.info(f"Waiting for another process, which is at work on: {next(iter(left.values())).title}.")
        time.sleep(POLL)


def _done(job: Job, context: JobContext, progress: Progress, force: bool) -> Outcome:
    """Do what is left of a job."""
    rest = job if force else _rest(job, context)
    if rest is None:
        context.scored.discard(job.id)
        return Outcome(job)
    ran_out, outcome = _attempt(rest, context, progress)
    if ran_out:  # here, where the error and the tensors that its frames hold are gone
        memory.release()
    return outcome._replace(job=job)


def _rest(job: Job, context: JobContext) -> Job | None:
    """What of a job is not in the store by now; another process may have done it since the plan was made."""
    context.store.share(job.makes)
    there = all(context.store.has(key, now=True) for key in job.makes)
    if not isinstance(job, ExtractJob):
        return None if there else job
    reductions = tuple(reduction for reduction in job.reductions if not context.store.has(reduction.makes[0], now=True))
    stored = there or (job.stored and job.rows is not None)  # a part of a pass for looks alone makes nothing else
    return replace(job, reductions=reductions, stored=stored) if reductions or not there else None


def _attempt(job: Job, context: JobContext, progress: Progress) -> tuple[bool, Outcome]:
    """Do a job; whether memory ran out, and what became of it."""
    limit = context.cell_timeout if isinstance(job, DETECTORS_OWN) else 0.0
    try:
        with time_limit(limit):
            run_job(context, job, lambda images: progress.tick(job, images))
    except TimeIsUp:
        reason = f"it did not end within {limit:g} s (--cell-timeout)"
        return False, Outcome(job, reason, traceback.format_exc())
    except StoreError:
        raise  # nothing can be kept any more: stop, rather than fail every cell
    except OodbenchError as error:
        return False, Outcome(job, str(error), traceback.format_exc())
    except Exception as error:  # a plug-in may raise anything; its own cells fail, the rest goes on
        text = visible(str(error).strip().partition("\n")[0])
        reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return memory.ran_out(error), Outcome(job, reason, traceback.format_exc())
    return False, Outcome(job)
