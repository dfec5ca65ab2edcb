"""Runs what is missing of a plan and writes records and views; a failing job affects only the cells that need it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from oodbench.benchmark.engines.engine import Engine, Outcome, RunProgress, shown_reason
from oodbench.benchmark.engines.local import Local
from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.plan.job_order import share_passes, share_products
from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.plan.plan import Cell, Plan
from oodbench.benchmark.records.record import FAILED, OK, SKIPPED, Record, read_record, write_record
from oodbench.benchmark.records.run import StoredRun, read_as_written, read_stored_run, write_run_info
from oodbench.benchmark.runner import provenance
from oodbench.benchmark.runner.earlier_cells import ALL, NONE, VALID, regroup, valid_part
from oodbench.benchmark.runner.run_info import collect_info, merge_info
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.evaluate import cell_key, evaluate_cell, key_content
from oodbench.benchmark.store.atomic import write_atomically
from oodbench.benchmark.store.store import Store

LOCAL = Local()


class Work(NamedTuple):
    """The part of a plan that is still to do."""

    cells: list[Cell]
    jobs: list[Job]
    kept: dict[str, Record]
    """Records of earlier commands that are still valid, by file name."""
    force: bool = False
    """Whether to run jobs even if their artifacts are in the store."""


def work_left(plan: Plan, context: JobContext, run_dir: Path, rerun: str) -> Work:
    """Compare a plan with the run folder and the store. `rerun` = 'missing' keeps failures, 'failed' retries them."""
    kept: dict[str, Record] = {}
    todo = []
    for cell in plan.cells:
        earlier = _earlier(run_dir, cell)
        if cell.record.status == SKIPPED:
            continue
        if rerun != "all" and earlier is not None and _is_valid(earlier, cell, context, rerun):
            kept[cell.record.file_name] = earlier
        else:
            todo.append(cell)
    return Work(todo, _jobs_left(plan, todo, context, rerun), kept, rerun == "all")


def _earlier(run_dir: Path, cell: Cell) -> Record | None:
    path = run_dir / "cells" / cell.record.file_name
    return read_record(path) if path.is_file() else None


def _is_valid(earlier: Record, cell: Cell, context: JobContext, rerun: str) -> bool:
    if earlier.key != cell_key(cell) or earlier.group != cell.record.group:  # a group is given, not computed
        return False
    if earlier.status in (FAILED, SKIPPED):  # skipped by a detector that reads what is not given
        return rerun == "missing"
    if cell.changed_scores and not earlier.stability:  # these scores alone failed
        return rerun == "missing" and all(context.store.has(key) for key in cell.scores)
    return all(context.store.has(key) for key in (*cell.scores, *filter(None, [cell.changed_scores])))


def _jobs_left(plan: Plan, cells: Iterable[Cell], context: JobContext, rerun: str) -> list[Job]:
    """The jobs whose artifacts are needed, by the cells or by another such job, and are not in the store."""
    if rerun == "all":
        return share_products(share_passes(plan.jobs_for(cells), plan.jobs))
    needed: set[str] = set()
    todo = [id_ for cell in cells for id_ in cell.waits_for]
    while todo:
        id_ = todo.pop()
        if id_ not in needed and not all(context.store.has(key) for key in plan.jobs[id_].makes):
            needed.add(id_)
            todo.extend(plan.jobs[id_].after)
    return share_products(share_passes([job for id_, job in plan.jobs.items() if id_ in needed], plan.jobs))


def run_plan(
    plan: Plan,
    work: Work,
    context: JobContext,
    run_dir: Path,
    asked: dict[str, Any],
    progress: RunProgress,
    earlier: str = VALID,
    engine: Engine = LOCAL,
) -> StoredRun:
    """Have an engine run the jobs, write each cell's record as soon as it is complete, and return the run.

    `earlier` says which cells of earlier commands stay in the run (`earlier_cells`): `VALID`, `ALL` or `NONE`.
    """
    names = [cell.record.file_name for cell in plan.cells]
    info = {**collect_info(plan, context, asked), "cells": names}
    with run_lock(context.store, run_dir):
        if earlier != NONE and (run_dir / "run.json").is_file():
            info = _with_earlier(run_dir, plan, info, earlier == ALL)
        _drop_stale(run_dir, work, info["cells"])
        write_run_info(run_dir, info)
    for cell in plan.cells:
        if cell.record.status == SKIPPED:
            write_record(run_dir, replace(cell.record, key=cell_key(cell)))
    _run_jobs(plan, work, context, engine, run_dir, progress)
    if not (run_dir / "run.json").is_file():
        raise StoreError(f"'{run_dir}' was removed during the run. Run the same command again; it reuses the cache.")
    return read_stored_run(run_dir)


def _with_earlier(run_dir: Path, plan: Plan, info: dict[str, Any], every: bool) -> dict[str, Any]:
    """`run.json` with the cells of earlier commands that stay: every one, or the valid ones."""
    before, records = read_as_written(run_dir)
    if not every:
        before = valid_part(before, records, plan, info)
        regroup(run_dir, records, before.get("cells", ()), plan)
    return merge_info(before, records, plan, info) if before else info


def run_lock(store: Store, run_dir: Path) -> AbstractContextManager[None]:
    """The lock for writing a run's list of cells, or its tables and plots."""
    return store.locks.hold(f"run-{run_dir.name}", f"is writing the tables of '{run_dir}'")


def _run_jobs(
    plan: Plan, work: Work, context: JobContext, engine: Engine, run_dir: Path, progress: RunProgress
) -> None:
    """Run the jobs; a cell's record is written when the last job it waits for has ended, successfully or not."""
    todo, reasons = {job.id for job in work.jobs}, dict[str, str]()
    waiting = [(cell, todo.intersection(cell.waits_for)) for cell in work.cells]
    by_job: dict[str, list[tuple[Cell, set[str]]]] = {}
    for cell, pending in waiting:
        for id_ in pending:
            by_job.setdefault(id_, []).append((cell, pending))

    def record(cell: Cell) -> None:
        outcome = evaluate_cell(cell, reasons, context)
        write_record(run_dir, provenance.with_provenance(outcome, cell, plan, context, key_content(cell)))
        progress.cell(outcome)

    for cell, pending in waiting:
        if not pending:
            record(cell)
    for outcome in engine.run(work.jobs, context, progress, work.force):
        if outcome.reason:
            reasons[outcome.job.id] = outcome.reason
        if outcome.details and shown_reason(outcome.job, outcome.reason):
            _log(run_dir, outcome)
        for cell, pending in by_job.pop(outcome.job.id, ()):
            pending.discard(outcome.job.id)
            if not pending:
                record(cell)


def _log(run_dir: Path, outcome: Outcome) -> None:
    text = f"{outcome.job.title}\n\n{outcome.details}"
    write_atomically(run_dir / "logs" / f"{outcome.job.kind}-{outcome.job.id[:12]}.txt", text)


def _drop_stale(run_dir: Path, work: Work, shown: list[str]) -> None:
    """Remove records that the run no longer shows or that are about to be recomputed; their artifacts stay stored.

    A record that another process has written since the plan was made stays, because its replacement would be equal.
    """
    pending = {cell.record.file_name: cell_key(cell) for cell in work.cells}
    folder = run_dir / "cells"
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        if path.name not in shown or (path.name in pending and not _is_done(path, pending[path.name])):
            path.unlink(missing_ok=True)


def _is_done(path: Path, key: str) -> bool:
    record = read_record(path)
    return record.status == OK and record.key == key
