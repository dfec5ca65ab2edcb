"""What the terminal shows while a run goes on, before it (the plan) and after it."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from oodbench.benchmark.api import Prepared, Quiet
from oodbench.benchmark.errors import UserError, visible
from oodbench.benchmark.jobs import ExtractJob, Job, TrainJob
from oodbench.benchmark.records import FAILED, SKIPPED, Run

EXAMPLES = 12
"""Jobs of each kind that a dry run names before it counts the rest."""


class Lines(Quiet):
    """Plain lines, for logs: one a training, and with `verbose` one a job."""

    def __init__(self, total: int, verbose: bool) -> None:
        self._total, self._verbose, self._count = total, verbose, 0
        self._started: dict[str, float] = {}

    def start(self, job: Job) -> None:
        """Note the time."""
        self._started[job.id] = time.perf_counter()

    def finish(self, job: Job, reason: str) -> None:
        """Write what was done, or why not."""
        self._count += not _is_part(job)
        seconds = time.perf_counter() - self._started.pop(job.id)
        if reason or self._verbose or isinstance(job, TrainJob):
            text = f"[{self._count}/{self._total}] {job.title}: " + (
                f"failed: {reason}" if reason else f"{seconds:.1f} s"
            )
            click.echo(visible(text), err=True)


class Bars(Quiet):
    """Bars on a terminal, each with its time left: the jobs of the matrix, and the images of each job under way."""

    def __init__(self, bars: Progress, jobs: Sequence[Job]) -> None:
        self._bars = bars
        self._matrix = bars.add_task("all jobs", total=sum(_cost(job) for job in jobs))
        self._current: dict[str, TaskID] = {}

    def start(self, job: Job) -> None:
        """Begin the job's bar."""
        self._current[job.id] = self._bars.add_task(visible(job.title), total=job.size)

    def tick(self, job: Job, images: int) -> None:
        """Move both bars."""
        self._bars.advance(self._current[job.id], images)
        self._bars.advance(self._matrix, images / max(1, job.size) * _cost(job))

    def finish(self, job: Job, reason: str) -> None:
        """Remove the job's bar, and say what failed."""
        self._bars.remove_task(self._current.pop(job.id))
        if reason:
            self._bars.console.print(visible(f"failed: {job.title}: {reason}"), markup=False, highlight=False)


def _is_part(job: Job) -> bool:
    """Whether it is a part of a job of the plan, rather than one itself."""
    return isinstance(job, ExtractJob) and job.rows is not None


def _cost(job: Job) -> float:
    """Rough cost for the time left: an image costs some fifty times more in training than in a forward pass."""
    return job.size * (50.0 if isinstance(job, TrainJob) else 1.0)


@contextmanager
def watch(jobs: Sequence[Job], verbosity: str) -> Iterator[Quiet]:
    """Progress fit for where the output goes: bars on a terminal, lines elsewhere, nothing if quiet."""
    if verbosity == "quiet" or not jobs:
        yield Quiet()
    elif verbosity == "verbose" or not sys.stderr.isatty():
        yield Lines(len(jobs), verbosity == "verbose")
    else:
        title = TextColumn("{task.description}", markup=False)
        columns = (title, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            yield Bars(bars, jobs)


def dry_run_text(prepared: Prepared) -> str:
    """The plan in words: what would be done, what is there already, what is left out and why."""
    plan, work = prepared.plan, prepared.work
    planned, left = Counter(j.kind for j in plan.jobs.values()), Counter(job.kind for job in work.jobs)
    out = [f"Suite {plan.suite.name}: {len(plan.cells)} cells, {len(work.kept)} of them done. Run: {prepared.run_dir}"]
    for kind, count in planned.items():
        out.append(f"  {kind:8} {count:5} jobs, {count - left[kind]} cached or done, {left[kind]} to do")
    for kind in left:
        titles = [f"{job.title} ({job.size:,} images)" for job in work.jobs if job.kind == kind]
        out += [f"  to do: {title}" for title in titles[:EXAMPLES]]
        out += [f"  to do: and {len(titles) - EXAMPLES} more of the kind {kind}"] if len(titles) > EXAMPLES else []
    skipped = {(c.record.label, c.record.id_set, c.record.reason) for c in plan.cells if c.record.status == SKIPPED}
    out += [f"  {line}" for line in prepared.engine.layout(work.jobs, prepared.bench)]
    out += [f"  skipped: {label} on {id_set}: {reason}" for label, id_set, reason in sorted(skipped)]
    out += [f"  skipped: {absence.what}: {absence.reason}" for absence in plan.skipped]
    out += [f"  unavailable: {absence.what}: {absence.reason}" for absence in plan.unavailable]
    return "\n".join(map(visible, out))


def run_footer(run: Run) -> str:
    """Where everything is, and what to do about failures."""
    failed = sum(record.status == FAILED for record in run.records)
    out = [f"Files: {run.path} (records.csv, table.csv, table.md, table.tex, plots/)"]
    if failed:
        out.append(
            f"{failed} of {len(run.records)} cells failed; tracebacks: {run.path / 'logs'}. "
            "Try them again with --rerun failed."
        )
    return "\n".join(out)


def beside_text(run: Run, against: str, rules: str, form: str, width: int) -> str:
    """The run beside published numbers (`against`: which), or else its extended metrics or those by other rules."""
    from oodbench.benchmark.extended import EXTENDED
    from oodbench.benchmark.reference import read_reference
    from oodbench.benchmark.views import against as published
    from oodbench.benchmark.views import audit
    from oodbench.benchmark.views import extended as beyond

    if form == "tex":
        raise UserError(f"--{'against' if against else 'metrics'} has no LaTeX form. Choose --format text, md or csv.")
    if against:
        reference = read_reference(against)
        if form == "text":
            return published.against_text(run, reference, width)
        return {"md": published.against_markdown, "csv": published.against_csv}[form](run, reference)
    if rules == EXTENDED:
        if form == "text":
            return beyond.extended_text(run, width)
        return {"md": beyond.extended_markdown, "csv": beyond.extended_csv}[form](run)
    if form == "text":
        return audit.audit_text(run, rules, width)
    return {"md": audit.audit_markdown, "csv": audit.audit_csv}[form](run, rules)
