"""Runs jobs one after another in this process, sharing the work with other processes that use the same store.

Workers of the other engines run their tasks with it, too.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from oodbench.benchmark.engines.engine import Outcome, Progress, remember, show_training, shown_reason
from oodbench.benchmark.engines.time_limit import TimeIsUp, time_limit
from oodbench.benchmark.errors import OodbenchError, StoreError, visible
from oodbench.benchmark.plan.jobs import ExtractJob, FitJob, Job, ScoreJob, waits_for
from oodbench.benchmark.plan.tuning.jobs import TuneJob
from oodbench.benchmark.stages import memory
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.dispatch import run_job
from oodbench.benchmark.store.locks import POLL, Lock

logger = logging.getLogger(__name__)

TIME_LIMITED = (TuneJob, FitJob, ScoreJob)
"""Jobs to which --cell-timeout applies: those that run a detector's code and nothing else that takes long."""


class Local:
    """The engine that runs all jobs in this process."""

    def run(self, jobs: Sequence[Job], context: JobContext, progress: Progress, force: bool) -> Iterator[Outcome]:
        """Run jobs one after another."""
        return run_jobs(jobs, context, progress, force)

    def planning_device(self, requested: str) -> str:
        """The device that jobs run on."""
        return requested

    def layout(self, jobs: Sequence[Job], context: JobContext) -> list[str]:
        """No lines: the list of jobs says everything."""
        return []


def run_jobs(
    jobs: Iterable[Job],
    context: JobContext,
    progress: Progress,
    force: bool = False,
    failed: Mapping[str, str] | None = None,
) -> Iterator[Outcome]:
    """Run jobs, given in an order that respects their dependencies; a job that depends on a failed one fails too.

    A job that another process is running is postponed, and skipped once that process has finished it. `force`: run jobs
    even if their artifacts are in the store. `failed`: jobs that failed elsewhere, by id, with reasons.
    """
    context.shared_results.reads_store = not force
    failed = dict(failed or {})
    remaining = {job.id: job for job in jobs}
    while remaining:
        job, lock = _claim(remaining, context)
        del remaining[job.id]
        try:
            blocked = next((failed[other] for other in job.requires if other in failed), "")
            progress.start(job)
            outcome = Outcome(job, blocked) if blocked else _run(job, context, progress, force)
        finally:
            lock.release()
        remember(failed, outcome)
        progress.finish(job, shown_reason(job, outcome.reason))
        yield outcome


def _claim(remaining: Mapping[str, Job], context: JobContext) -> tuple[Job, Lock]:
    """Lock the first job that waits for none of the remaining ones and that no other process is running."""
    logged = False
    while True:
        ready = (job for job in remaining.values() if not waits_for(job) & remaining.keys())
        for job in ready:
            if (lock := context.store.locks.attempt(f"job-{job.id[:16]}")) is not None:
                return job, lock
        if not logged:
            logged = True
            logger.info(f"Waiting for another process, which is working on: {next(iter(remaining.values())).title}.")
        time.sleep(POLL)


def _run(job: Job, context: JobContext, progress: Progress, force: bool) -> Outcome:
    """Run a job, as far as its artifacts are missing."""
    needed = job if force else _without_stored(job, context)
    if needed is None:
        context.scored.discard(job.id)
        return Outcome(job)
    ran_out, outcome = _attempt(needed, context, progress)
    if ran_out:  # not before the error is gone, with the tensors that its stack frames hold
        memory.release()
    return outcome._replace(job=job)


def _without_stored(job: Job, context: JobContext) -> Job | None:
    """The part of a job whose artifacts are missing; None if another process has finished it since it was planned."""
    context.store.share(job.makes)
    complete = all(context.store.has(key, now=True) for key in job.makes)
    if not isinstance(job, ExtractJob):
        return None if complete else job
    reductions = tuple(reduction for reduction in job.reductions if not context.store.has(reduction.makes[0], now=True))
    stored = complete or (job.stored and job.rows is not None)  # a part that only reduces maps makes nothing else
    return replace(job, reductions=reductions, stored=stored) if reductions or not complete else None


def _attempt(job: Job, context: JobContext, progress: Progress) -> tuple[bool, Outcome]:
    """Run a job: whether memory ran out, and the outcome. Raises `StoreError`, which stops the run."""
    limit = context.cell_timeout if isinstance(job, TIME_LIMITED) else 0.0
    try:
        with time_limit(limit):
            run_job(context, job, lambda images: progress.tick(job, images), lambda v: show_training(progress, job, v))
    except TimeIsUp:
        reason = f"it did not end within {limit:g} s (--cell-timeout)"
        return False, Outcome(job, reason, traceback.format_exc())
    except StoreError:
        raise  # no result can be stored any more: stop the run instead of failing every cell
    except OodbenchError as error:
        return False, Outcome(job, str(error), traceback.format_exc())
    except Exception as error:  # a plug-in may raise anything; only its own cells fail
        text = visible(str(error).strip().partition("\n")[0])
        reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return memory.ran_out(error), Outcome(job, reason, traceback.format_exc())
    return False, Outcome(job)
