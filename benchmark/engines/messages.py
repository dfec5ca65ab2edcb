"""What a worker posts about its progress while it runs a task."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from oodbench.benchmark.plan.jobs import Job

PAUSE = 0.5
"""Seconds between two messages on how far a job is."""

LONGEST = 1000
"""Characters of a message, so that it goes through a pipe in one piece."""

LOGGER, RELAYED = "oodbench", "oodbench.relayed"
"""The logger of the package, and the one that passes on what workers have logged."""

Event = tuple[str, str, int]
"""What a worker posts: 'start', a job's id, 0; 'tick', a job's id, images; 'log', a message, its level."""

Post = Callable[[Event], object]


class Forwarder(logging.Handler):
    """Posts what is logged in a worker, so that the process that plans the run can log it."""

    def __init__(self, post: Post) -> None:
        super().__init__(logging.INFO)
        self._post = post

    def emit(self, record: logging.LogRecord) -> None:
        """Post a message, cut to `LONGEST`; not one that a relay in this process has already passed on."""
        if record.name != RELAYED:
            self._post(("log", record.getMessage()[:LONGEST], record.levelno))


@contextmanager
def forwarded(post: Post) -> Iterator[None]:
    """While it lasts, what this process logs is posted."""
    handler, logger = Forwarder(post), logging.getLogger(LOGGER)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class Reporter:
    """Posts what goes on, not too often."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._images, self._posted = 0, time.perf_counter()

    def start(self, job: Job) -> None:
        """A job begins."""
        self._images, self._posted = 0, time.perf_counter()
        self._post(("start", job.id, 0))

    def tick(self, job: Job, images: int) -> None:
        """Images have passed."""
        self._images += images
        if time.perf_counter() - self._posted >= PAUSE:
            self._flush(job)

    def finish(self, job: Job, reason: str) -> None:
        """A job has ended; its outcome is told in the report."""
        if self._images:
            self._flush(job)

    def _flush(self, job: Job) -> None:
        self._post(("tick", job.id, self._images))
        self._images, self._posted = 0, time.perf_counter()
