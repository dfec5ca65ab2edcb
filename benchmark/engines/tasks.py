"""Jobs packed into tasks: what one worker does in one go, and after which other tasks.

A training is a task, and so is a fit. A pass and the looks that it makes are one; a pass over a large set is divided
(parts.py), each part a task. Jobs that share a product of features are one task. Scores of a detector that need no
network pass are quick, so that those of several sets are one task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter

from oodbench.benchmark.plan.jobs import ExtractJob, Job, ReduceMapsJob, ScoreJob, part_key, runs_network, waits_for

PART = 10_240
"""Images of a part of a pass: few enough to keep many workers busy with a large set, enough to make loading a network
cheap. A multiple of `extract.BLOCK`."""

BATCH = 20_000
"""Images that the quick scores of one task have together, at least where there are so many."""


@dataclass(frozen=True)
class WorkerTask:
    """Jobs that one worker does one after the other, in this order."""

    jobs: tuple[Job, ...]
    after: tuple[str, ...]
    """Ids of the tasks whose artifacts it reads."""

    @property
    def id(self) -> str:
        """The id of its first job."""
        return self.jobs[0].id

    @property
    def title(self) -> str:
        """What it is about, for people."""
        more = len(self.jobs) - 1
        return self.jobs[0].title + (f", and {more} more" if more else "")

    @property
    def kind(self) -> str:
        """The kind of its first job, or 'part' for a part of a pass."""
        first = self.jobs[0]
        return "part" if isinstance(first, ExtractJob) and first.rows else first.kind

    @property
    def network(self) -> bool:
        """Whether it runs a network, and so profits from a GPU."""
        return any(map(runs_network, self.jobs))


def pack_tasks(jobs: Sequence[Job], part: int = PART) -> list[WorkerTask]:
    """The tasks of some jobs, in an order that their dependencies allow; `part`: images of a part of a pass."""
    whole = [divided(job, part) if isinstance(job, ExtractJob) else job for job in jobs]
    pieces = [piece for job in whole for piece in (*getattr(job, "parts", ()), job)]
    homes = _homes(pieces)
    members: dict[str, list[Job]] = {}
    for job in pieces:
        members.setdefault(homes[job.id], []).append(job)
    after = {home: _after(home, inside, homes) for home, inside in members.items()}
    return [WorkerTask(tuple(members[home]), tuple(after[home])) for home in TopologicalSorter(after).static_order()]


def _after(home: str, inside: Iterable[Job], homes: dict[str, str]) -> list[str]:
    ids = dict.fromkeys(id_ for job in inside for id_ in sorted(waits_for(job)))
    return list(dict.fromkeys(homes[id_] for id_ in ids if id_ in homes and homes[id_] != home))


def _homes(jobs: Iterable[Job]) -> dict[str, str]:
    """The task of each job, by the id of the task's first job."""
    homes: dict[str, str] = {}
    open_batches: dict[tuple[str | None, ...], str] = {}
    filled: Counter[str] = Counter()
    for job in jobs:
        if job.id in homes:
            continue
        home = job.id
        if isinstance(job, ExtractJob):
            homes.update((reduction.id, home) for reduction in job.reductions)
        elif isinstance(job, ReduceMapsJob):
            home = job.pass_id
        elif isinstance(job, ScoreJob) and job.bank is not None:
            homes.update((other.id, home) for other in job.others)
        elif isinstance(job, ScoreJob) and not job.passes:
            batch = _batch(job)
            home = open_batches.setdefault(batch, home)
            filled[home] += job.size
            if filled[home] >= BATCH:
                del open_batches[batch]
        homes[job.id] = home
    return homes


def _batch(job: ScoreJob) -> tuple[str | None, ...]:
    """What the jobs of one batch have in common."""
    learned = [key.digest if key else None for key in (job.fitted, job.tuned)]
    return (job.checkpoint.key.digest, job.detector, *learned)


# Passes in parts


def divided(job: ExtractJob, images: int = PART) -> ExtractJob:
    """The pass with its parts, of so many images each, a multiple of a block (`extract.BLOCK`).

    A pass in which a detector learns from maps, in the order of the images, stays whole, and so does a small one.
    """
    count = job.outputs.data.images
    if count <= images or any(reduction.learns for reduction in job.reductions):
        return job
    parts = tuple(_part(job, (start, min(start + images, count))) for start in range(0, count, images))
    return replace(job, parts=parts, after=(*job.after, *(part.id for part in parts)))


def _part(job: ExtractJob, rows: tuple[int, int]) -> ExtractJob:
    data = replace(job.outputs.data, images=rows[1] - rows[0])
    logits, features = (part_key(key, rows) for key in (job.outputs.logits, job.outputs.features))
    reductions = tuple(_part_of_reduction(reduction, rows) for reduction in job.reductions)
    return replace(
        job,
        title=f"{job.title}, images {rows[0]:,} to {rows[1] - 1:,}",
        makes=tuple(reduction.makes[0] for reduction in reductions) if job.stored else (logits, features),
        outputs=replace(job.outputs, data=data, logits=logits, features=features),
        reductions=reductions,
        rows=rows,
    )


def _part_of_reduction(reduction: ReduceMapsJob, rows: tuple[int, int]) -> ReduceMapsJob:
    data = replace(reduction.data, images=rows[1] - rows[0])
    after = tuple(id_ for id_ in reduction.after if id_ != reduction.pass_id)  # which is put together after its parts
    return replace(reduction, makes=(part_key(reduction.makes[0], rows),), data=data, after=after)
