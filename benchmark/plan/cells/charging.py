"""Which forward passes a cell is charged for: those that no earlier cell of the plan has needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from oodbench.benchmark.plan.jobs import ExtractJob, FitJob, HeadJob, Job, ReduceMapsJob, ScoreJob, TrainJob
from oodbench.benchmark.plan.plan import Plan


class Charging:
    """Charges the cells of one plan, in their order."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.charged: set[str] = set()

    def charge(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs that a cell adds to those already charged, as if the store were empty; training is not charged."""
        charged: list[Job] = []
        todo: list[Job] = list(jobs)
        while todo:
            job = todo.pop()
            if job.id in self.charged or isinstance(job, TrainJob | HeadJob):
                continue
            self.charged.add(job.id)
            charged.append(job)
            charged += self._pass_for_maps(job)
            todo.extend(self.plan.jobs[other] for other in job.after)
        return charged

    def _pass_for_maps(self, job: Job) -> list[Job]:
        """The pass that a reduction of maps needs although logits and features need none; empty if it is charged."""
        if not isinstance(job, ReduceMapsJob):
            return []
        passed = self.plan.jobs[job.pass_id]
        if not isinstance(passed, ExtractJob) or not passed.features_stored or f"maps {passed.id}" in self.charged:
            return []
        self.charged.add(f"maps {passed.id}")
        return [replace(passed, features_stored=False)]


def forwarded(job: Job, choice: int | None = None) -> int:
    """Images that a job pushes through a network; after tuning, with the settings of candidate number `choice`."""
    if isinstance(job, ScoreJob) and choice is not None and job.passes_if:
        return job.passes_if[choice]
    if isinstance(job, FitJob | ScoreJob):
        return job.passes
    return job.size if isinstance(job, ExtractJob) and not job.features_stored else 0
