"""Runs tasks in a worker process, on this machine or another, with a job context of its own."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout

from oodbench.benchmark.engines.engine import Report, remember
from oodbench.benchmark.engines.local import run_jobs
from oodbench.benchmark.engines.messages import Post, ProgressReporter, forward_logs
from oodbench.benchmark.engines.same_code import refuse_worker
from oodbench.benchmark.engines.tasks import WorkerTask
from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.open_worker import open_context
from oodbench.benchmark.stages.worker_config import WorkerConfig


class Worker:
    """Opens a job context at its first task and keeps it, with the networks that it has loaded."""

    def __init__(self, config: WorkerConfig, post: Post) -> None:
        self.config, self.post = config, post
        self._context: JobContext | None = None

    def run(self, task: WorkerTask, failed: Mapping[str, str], force: bool) -> Report:
        """Run the jobs of a task; `failed`: earlier jobs that failed, by id, with reasons.

        What a job prints goes into the details of its outcome. Raises `UserError` if this process has other software
        than the run was planned with.
        """
        log, all_failed = io.StringIO(), dict(failed)
        outcomes: list[tuple[str, str, str]] = []
        with redirect_stdout(log), redirect_stderr(log), forward_logs(self.post):
            try:
                if self._context is None:
                    refuse_worker(self.config.code)
                    self._context = open_context(self.config)
                for outcome in run_jobs(task.jobs, self._context, ProgressReporter(self.post), force, failed):
                    remember(all_failed, outcome)
                    outcomes.append((outcome.job.id, outcome.reason, outcome.details + log.getvalue()))
                    log.seek(log.truncate(0))
            except StoreError as error:
                return Report(tuple(outcomes), all_failed, str(error))
        return Report(tuple(outcomes), all_failed)
