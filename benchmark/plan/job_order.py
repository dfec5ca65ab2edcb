"""Orders jobs so that forward passes and similarity products are shared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from heapq import heappop, heappush

from oodbench.benchmark.plan.jobs import ExtractJob, Job, ReduceMapsJob, ScoreJob, waits_for


def share_products(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, with those that compare the same set with the same bank moved next to the last of them.

    Each lists those after it in `others`, which it may compute as well. If it cannot run, the next one computes them.
    Jobs that wait for a choice of settings share nothing with those that try settings for it.
    """
    groups: dict[tuple[str, str, bool], list[ScoreJob]] = {}
    for job in jobs:
        if isinstance(job, ScoreJob) and job.bank is not None:
            place = job.outputs.features.digest, job.bank.features.digest, job.tuned is not None
            groups.setdefault(place, []).append(job)
    last = {group[-1].id: group for group in groups.values()}
    moved = {job.id for group in groups.values() for job in group[:-1]}
    ordered: list[Job] = []
    for job in jobs:
        if job.id in last:
            group = last[job.id]
            ordered += [replace(one, others=tuple(group[i + 1 :])) for i, one in enumerate(group)]
        elif job.id not in moved:
            ordered.append(job)
    return _first_that_can_run(ordered)


def _first_that_can_run(jobs: Sequence[Job]) -> list[Job]:
    """The jobs so that each comes after those it waits for; of all that could come next, the first always does."""
    place = {job.id: number for number, job in enumerate(jobs)}
    missing = {job.id: waits_for(job) & place.keys() for job in jobs}
    waiting: dict[str, list[str]] = {}
    for id_, others in missing.items():
        for other in others:
            waiting.setdefault(other, []).append(id_)
    ready = [place[id_] for id_, others in missing.items() if not others]  # sorted, and therefore a heap
    ordered: list[Job] = []
    while ready:
        job = jobs[heappop(ready)]
        ordered.append(job)
        for id_ in waiting.get(job.id, ()):
            missing[id_].discard(job.id)
            if not missing[id_]:
                heappush(ready, place[id_])
    assert len(ordered) == len(jobs), "jobs wait for each other"
    return ordered


def share_passes(jobs: Iterable[Job], plan: Mapping[str, Job]) -> list[Job]:
    """The jobs in an order that allows one pass per set: each pass computes all map reductions that its set needs.

    A pass waits for what the reductions need, such as a detector's statistics of the training split's maps. If only
    reductions are missing, the pass computes them and leaves logits and features as they are.
    """
    left = {job.id: job for job in jobs}
    reductions: dict[str, list[ReduceMapsJob]] = {}
    for job in left.values():
        if isinstance(job, ReduceMapsJob):
            reductions.setdefault(job.pass_id, []).append(job)
    for pass_id, needed in reductions.items():
        extract = plan[pass_id]
        assert isinstance(extract, ExtractJob)
        left[pass_id] = replace(extract, reductions=tuple(needed), stored=pass_id not in left)
    return _in_dependency_order(left)


def _in_dependency_order(left: Mapping[str, Job]) -> list[Job]:
    ordered: dict[str, Job] = {}
    visited: set[str] = set()

    def visit(id_: str) -> None:
        if id_ in visited or id_ not in left:
            return
        visited.add(id_)
        job = left[id_]
        for other in (*job.after, *(id_ for reduction in getattr(job, "reductions", ()) for id_ in reduction.after)):
            visit(other)
        ordered[id_] = job

    for id_ in left:
        visit(id_)
    return list(ordered.values())
