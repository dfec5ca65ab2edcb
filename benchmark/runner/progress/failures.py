"""Which failures a display names, and which it counts: one cause may fail hundreds of jobs."""

from __future__ import annotations

from oodbench.benchmark.errors import visible
from oodbench.benchmark.plan.jobs import Job

NAMED = 10
"""Failures that are named; the table has the reasons of all."""


class Failures:
    """Names the first job that fails for each reason; jobs that wait for a failed one give its title and reason."""

    def __init__(self) -> None:
        self._reasons: set[str] = set()
        self._named = 0
        self.counted = 0
        """Failed jobs that were not named."""

    def text(self, job: Job, reason: str) -> str:
        """'failed: TITLE: REASON' if that is to be said, else empty."""
        known = reason in self._reasons
        self._reasons |= {reason, f"{job.title}: {reason}"}
        if known or self._named >= NAMED:
            self.counted += 1
            return ""
        self._named += 1
        return visible(f"failed: {job.title}: {reason}")

    def rest(self) -> str:
        """A sentence on the failures that were not named; empty if there are none."""
        jobs = f"{self.counted:,} more job{'s' * (self.counted != 1)}"
        return f"failed: {jobs}, for these reasons or as the table says" if self.counted else ""
