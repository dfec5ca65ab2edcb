"""Which failures a display names, and which it counts: one cause may fail hundreds of jobs."""

from __future__ import annotations

from oodbench.benchmark.errors import visible
from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.records.record import FAILED, NO_CLASSIFIER, NOT_GIVEN, SKIPPED

NAMED = 10
"""Failures that are named; the table has the reasons of all."""


class Failures:
    """Names the first job that fails for each reason; jobs that wait for a failed one give its title and reason."""

    def __init__(self) -> None:
        self._reasons: set[str] = set()
        self._named, self._only_skipped = 0, True
        self.counted = 0
        """Failed jobs that were not named."""

    def text(self, job: Job, reason: str) -> str:
        """'failed: TITLE: REASON' if that is to be said, else empty.

        'skipped: ...' where a detector reads what its network does not give, which is nobody's fault.
        """
        known = reason in self._reasons
        skipped = NO_CLASSIFIER in reason or NOT_GIVEN in reason
        self._only_skipped = self._only_skipped and skipped
        self._reasons |= {reason, f"{job.title}: {reason}"}
        if known or self._named >= NAMED:
            self.counted += 1
            return ""
        self._named += 1
        return visible(f"{SKIPPED if skipped else FAILED}: {job.title}: {reason}")

    def rest(self) -> str:
        """A sentence on the failures that were not named; empty if there are none."""
        jobs = f"{self.counted:,} more job{'s' * (self.counted != 1)}"
        what = SKIPPED if self._only_skipped else FAILED
        return f"{what}: {jobs}, for these reasons or as the table says" if self.counted else ""
