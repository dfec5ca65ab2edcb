"""Orders jobs so that passes and similarity products are shared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from oodbench.benchmark.plan.jobs import ExtractJob, Job, ReduceMapsJob, ScoreJob

if TYPE_CHECKING:
    pass


def share_products(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, those that compare one set with one bank next to each other where the last of them stood.

    Each is told of those after it, which it may do as well; one that cannot run leaves them to the next.
    """
    groups: dict[tuple[str, str], list[ScoreJob]] = {}
    for job in jobs:
        if isinstance(job, ScoreJob) and job.bank is not None:
            groups.setdefault((job.outputs.features.digest, job.bank.features.digest), []).append(job)
    last = {group[-1].id: group for group in groups.values()}
    moved = {job.id for group in groups.values() for job in group[:-1]}
    ordered: list[Job] = []
    for job in jobs:
        if job.id in last:
            group = last[job.id]
            ordered += [replace(one, others=tuple(group[place + 1 :])) for place, one in enumerate(group)]
        elif job.id not in moved:
            ordered.append(job)
    return ordered


def share_passes(jobs: Iterable[Job], plan: Mapping[str, Job]) -> list[Job]:
    """The jobs in an order that allows one pass a set: each pass makes every look that is wanted of its set.

    A pass waits for what the looks need, such as what a detector learns from the training split's maps. Where only
    looks are wanted, the pass is run for them, and leaves logits and features alone.
    """
    left = {job.id: job for job in jobs}
    reductions: dict[str, list[ReduceMapsJob]] = {}
    for job in left.values():
        if isinstance(job, ReduceMapsJob):
            reductions.setdefault(job.pass_id, []).append(job)
    for pass_id, wanted in reductions.items():
        extract = plan[pass_id]
        assert isinstance(extract, ExtractJob)
        left[pass_id] = replace(extract, reductions=tuple(wanted), stored=pass_id not in left)
    ordered: dict[str, Job] = {}
    begun: set[str] = set()

    def visit(id_: str) -> None:
        if id_ in begun or id_ not in left:
            return
        begun.add(id_)
        job = left[id_]
        for other in (*job.after, *(id_ for reduction in getattr(job, "reductions", ()) for id_ in reduction.after)):
            visit(other)
        ordered[id_] = job

    for id_ in left:
        visit(id_)
    return list(ordered.values())
