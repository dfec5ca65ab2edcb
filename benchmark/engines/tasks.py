"""Packs jobs into tasks: the jobs that one worker runs in a row, and the tasks that they depend on.

A training is a task, and so is a fit. A forward pass and the map reductions made in it are one task; a pass over a
large set is divided into parts (stages/extract_parts.py), each a task. Jobs that share similarities are one task.
Scores that need no network pass are quick, so that those of several sets form one task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter

from oodbench.benchmark.plan.jobs import ExtractJob, Job, ReduceMapsJob, ScoreJob, runs_network, waits_for

PART = 10_240
"""Images per part of a pass: few enough to keep many workers busy with a large set, and enough to make the loading of a
network cheap in comparison. Rounded to a multiple of the job's block."""

BATCH = 20_000
"""A task of quick scores is complete once its jobs have this many images together."""


@dataclass(frozen=True)
class WorkerTask:
    """Jobs that one worker runs one after another, in this order."""

    jobs: tuple[Job, ...]
    after: tuple[str, ...]
    """Ids of the tasks whose artifacts this one reads."""

    @property
    def id(self) -> str:
        """The id of its first job."""
        return self.jobs[0].id

    @property
    def title(self) -> str:
        """A description for people."""
        more = len(self.jobs) - 1
        return self.jobs[0].title + (f", and {more} more" if more else "")

    @property
    def kind(self) -> str:
        """The kind of its first job, or 'part' for a part of a pass."""
        first = self.jobs[0]
        return "part" if isinstance(first, ExtractJob) and first.rows else first.kind

    @property
    def network(self) -> bool:
        """Whether it runs a network, and therefore benefits from a GPU."""
        return any(map(runs_network, self.jobs))


def pack_tasks(jobs: Sequence[Job], part: int = PART, batch: int = BATCH) -> list[WorkerTask]:
    """Pack jobs into tasks, in an order that respects their dependencies.

    `part`: images per part of a pass; `batch`: images in a task of quick scores.
    """
    divided_jobs = [divided(job, part) if isinstance(job, ExtractJob) else job for job in jobs]
    all_jobs = [piece for job in divided_jobs for piece in (*getattr(job, "parts", ()), job)]
    task_ids = _task_ids(all_jobs, batch)
    members: dict[str, list[Job]] = {}
    for job in all_jobs:
        members.setdefault(task_ids[job.id], []).append(job)
    after = {task: _after(task, task_jobs, task_ids) for task, task_jobs in members.items()}
    return [WorkerTask(tuple(members[task]), tuple(after[task])) for task in TopologicalSorter(after).static_order()]


def _after(task: str, jobs: Iterable[Job], task_ids: dict[str, str]) -> list[str]:
    """The ids of the other tasks that the jobs of a task wait for."""
    ids = dict.fromkeys(id_ for job in jobs for id_ in sorted(waits_for(job)))
    return list(dict.fromkeys(task_ids[id_] for id_ in ids if id_ in task_ids and task_ids[id_] != task))


def _task_ids(jobs: Iterable[Job], batch: int) -> dict[str, str]:
    """For each job's id, the id of its task, which is that of the task's first job."""
    task_ids: dict[str, str] = {}
    open_batches: dict[tuple[str | None, ...], str] = {}
    images: Counter[str] = Counter()
    for job in jobs:
        if job.id in task_ids:
            continue
        task = job.id
        if isinstance(job, ExtractJob):
            task_ids.update((reduction.id, task) for reduction in job.reductions)
        elif isinstance(job, ReduceMapsJob):
            task = job.pass_id
        elif isinstance(job, ScoreJob) and job.bank is not None:
            task_ids.update((other.id, task) for other in job.others)
        elif isinstance(job, ScoreJob) and not job.passes:
            common = _batch_key(job)
            task = open_batches.setdefault(common, task)
            images[task] += job.size
            if images[task] >= batch:
                del open_batches[common]
        task_ids[job.id] = task
    return task_ids


def _batch_key(job: ScoreJob) -> tuple[str | None, ...]:
    """What the jobs of one batch have in common: the checkpoint, and the detector with its settings and state."""
    state = [key.digest if key else None for key in (job.fitted, job.tuned)]
    return (job.checkpoint.key.digest, job.detector, *state)


# Passes divided into parts


def divided(job: ExtractJob, images: int = PART) -> ExtractJob:
    """A pass divided into parts of at most `images` images each, rounded to a multiple of the job's block.

    A small pass is returned as it is. So are one in which a detector learns from maps in the order of the images, and
    one that computes logits from stored features.
    """
    count = job.outputs.data.images
    images = max(1, images // job.block) * job.block
    if count <= images or job.features_stored or any(reduction.learns for reduction in job.reductions):
        return job
    parts = tuple(_part_of_pass(job, (start, min(start + images, count))) for start in range(0, count, images))
    return replace(job, parts=parts, after=(*job.after, *(part.id for part in parts)))


def _part_of_pass(job: ExtractJob, rows: tuple[int, int]) -> ExtractJob:
    data = replace(job.outputs.data, images=rows[1] - rows[0])
    logits, features = (key.of_rows(rows) for key in (job.outputs.logits, job.outputs.features))
    named = job.outputs.named.of_rows(rows) if job.outputs.named else None
    outputs = replace(job.outputs, data=data, logits=logits, features=features, named=named)
    reductions = tuple(_part_of_reduction(reduction, rows) for reduction in job.reductions)
    return replace(
        job,
        title=f"{job.title}, images {rows[0]:,} to {rows[1] - 1:,}",
        makes=tuple(reduction.makes[0] for reduction in reductions) if job.stored else outputs.arrays,
        outputs=outputs,
        reductions=reductions,
        rows=rows,
    )


def _part_of_reduction(reduction: ReduceMapsJob, rows: tuple[int, int]) -> ReduceMapsJob:
    data = replace(reduction.data, images=rows[1] - rows[0])
    after = tuple(id_ for id_ in reduction.after if id_ != reduction.pass_id)  # which is joined after its parts
    return replace(reduction, makes=(reduction.makes[0].of_rows(rows),), data=data, after=after)
