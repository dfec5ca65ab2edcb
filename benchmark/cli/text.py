"""Text that commands print about a run: its plan, its files, and a comparison with other numbers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from oodbench.benchmark.errors import UserError, counted, visible
from oodbench.benchmark.records.record import FAILED, SKIPPED
from oodbench.benchmark.records.run import StoredRun

if TYPE_CHECKING:
    from oodbench.benchmark.api import Prepared

EXAMPLES = 12
"""Number of jobs of each kind that a dry run lists; the rest is counted."""


def dry_run_text(prepared: Prepared) -> str:
    """A plan as text: what is to do, what is already done, and what is left out, with the reasons."""
    from oodbench.benchmark.runner.store_estimate import estimate  # imports torch, as what makes a plan has

    plan, work = prepared.plan, prepared.work
    planned, left = Counter(j.kind for j in plan.jobs.values()), Counter(job.kind for job in work.jobs)
    out = [
        f"Suite {plan.suite.name}: {counted(len(plan.cells), 'cell')}, {len(work.kept)} of them done. "
        f"Run: {prepared.run_dir}"
    ]
    for kind, count in planned.items():
        jobs = "job" if count == 1 else "jobs"
        out.append(f"  {kind:8} {count:5} {jobs}, {count - left[kind]} cached or done, {left[kind]} to do")
    for kind in left:
        titles = [f"{job.title} ({counted(job.size, 'image')})" for job in work.jobs if job.kind == kind]
        out += [f"  to do: {title}" for title in titles[:EXAMPLES]]
        out += [f"  to do: {counted(len(titles) - EXAMPLES, f'more {kind} job')}"] if len(titles) > EXAMPLES else []
    out.append(f"  {estimate(plan, prepared.context.store, prepared.context.library).text()}")
    skipped = {(c.record.label, c.record.id_set, c.record.reason) for c in plan.cells if c.record.status == SKIPPED}
    out += [f"  {line}" for line in prepared.engine.layout(work.jobs, prepared.context)]
    out += [f"  skipped: {label} on {id_set}: {reason}" for label, id_set, reason in sorted(skipped)]
    out += [f"  skipped: {absence.what}: {absence.reason}" for absence in plan.skipped]
    out += [f"  unavailable: {absence.what}: {absence.reason}" for absence in plan.unavailable]
    return "\n".join(map(visible, out))


def run_footer(run: StoredRun) -> str:
    """Where the files of a run are, and what to do about failures."""
    failed = sum(record.status == FAILED for record in run.records)
    out = [f"Files: {run.path} (records.csv, table.csv, table.md, table.tex, plots/)"]
    if failed:
        out.append(
            f"{failed} of {len(run.records)} cells failed; tracebacks: {run.path / 'logs'}. "
            "Retry them with --rerun failed."
        )
    return "\n".join(out)


def beside_text(run: StoredRun, against: str, rules: str, form: str, width: int) -> str:
    """A run next to the published numbers named `against`; if empty, its extended metrics or those by other rules."""
    from oodbench.benchmark.metrics.names import EXTENDED
    from oodbench.benchmark.papers import against_published as published
    from oodbench.benchmark.papers.published import read_reference
    from oodbench.benchmark.views.tables import extended as extended_view
    from oodbench.benchmark.views.tables import released_scripts

    if form == "tex":
        raise UserError(f"--{'against' if against else 'metrics'} has no LaTeX form. Choose --format text, md or csv.")
    if against:
        reference = read_reference(against)
        if form == "text":
            return published.against_text(run, reference, width)
        return {"md": published.against_markdown, "csv": published.against_csv}[form](run, reference)
    if rules == EXTENDED:
        if form == "text":
            return extended_view.extended_text(run, width)
        return {"md": extended_view.extended_markdown, "csv": extended_view.extended_csv}[form](run)
    if form == "text":
        return released_scripts.audit_text(run, rules, width)
    return {"md": released_scripts.audit_markdown, "csv": released_scripts.audit_csv}[form](run, rules)
