"""The other end: a process, on this machine or another, that does tasks with a bench of its own."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout

from oodbench.benchmark.engines.engine import Report, remember
from oodbench.benchmark.engines.local import run_jobs
from oodbench.benchmark.engines.messages import Post, Reporter, forwarded
from oodbench.benchmark.engines.tasks import WorkerTask
from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.open_worker import open_context
from oodbench.benchmark.stages.worker_config import WorkerConfig


class Worker:
    """Opens the bench at its first task and keeps it, with the networks that it has loaded."""

    def __init__(self, config: WorkerConfig, post: Post) -> None:
        self.config, self.post = config, post
        self._context: JobContext | None = None

    def do(self, task: WorkerTask, failed: Mapping[str, str], force: bool) -> Report:
        """Do a task's jobs; `failed`: jobs before it that failed, and why."""
        log, known = io.StringIO(), dict(failed)
        told: list[tuple[str, str, str]] = []
        with redirect_stdout(log), redirect_stderr(log), forwarded(self.post):
            try:
                if self._context is None:
                    self._context = open_context(self.config)
                for outcome in run_jobs(task.jobs, self._context, Reporter(self.post), force, failed):
                    remember(known, outcome)
                    told.append((outcome.job.id, outcome.reason, outcome.details + log.getvalue()))
                    log.seek(log.truncate(0))
            except StoreError as error:
                return Report(tuple(told), known, str(error))
        return Report(tuple(told), known)
