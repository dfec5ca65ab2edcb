"""The events that a worker posts while it runs a task: progress of jobs, and log messages."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.stages.training.epoch_values import EpochValues

TICK_INTERVAL = 0.5
"""Seconds between two events on the progress of a job."""

MAX_LENGTH = 1000
"""Characters of a log message that are posted, so that it is written to a pipe atomically."""

LOGGER, RELAYED = "oodbench", "oodbench.relayed"
"""The logger of the package, and the one that logs what workers have posted."""

Event = tuple[str, str, Any]
"""('start', job id, 0), ('tick', job id, number of images), ('training', job id, its `EpochValues`), ('log', message,
level), or ('done', job id, 0) for one that succeeded."""

Post = Callable[[Event], object]


class LogForwarder(logging.Handler):
    """Posts what a worker logs, so that the planning process can log it."""

    def __init__(self, post: Post) -> None:
        super().__init__(logging.INFO)
        self._post = post

    def emit(self, record: logging.LogRecord) -> None:
        """Post a message, cut to `MAX_LENGTH`, unless a relay in this process has logged it already."""
        if record.name != RELAYED:
            self._post(("log", record.getMessage()[:MAX_LENGTH], record.levelno))


@contextmanager
def forward_logs(post: Post) -> Iterator[None]:
    """Post everything that this process logs within the block."""
    handler, logger = LogForwarder(post), logging.getLogger(LOGGER)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class ProgressReporter:
    """Posts the progress of jobs as events, at most one tick per `TICK_INTERVAL`."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._images, self._posted = 0, time.perf_counter()

    def start(self, job: Job) -> None:
        """Post that a job starts."""
        self._images, self._posted = 0, time.perf_counter()
        self._post(("start", job.id, 0))

    def tick(self, job: Job, images: int) -> None:
        """Count processed images; post them when the interval has passed."""
        self._images += images
        if time.perf_counter() - self._posted >= TICK_INTERVAL:
            self._flush(job)

    def training(self, job: Job, values: EpochValues) -> None:
        """Post the losses of a training, which come seldom enough."""
        self._post(("training", job.id, values))

    def finish(self, job: Job, reason: str) -> None:
        """Post the remaining images of a job, and that it succeeded; why one failed is in the worker's report."""
        if self._images:
            self._flush(job)
        if not reason:
            self._post(("done", job.id, 0))

    def _flush(self, job: Job) -> None:
        self._post(("tick", job.id, self._images))
        self._images, self._posted = 0, time.perf_counter()
