"""The published numbers that a run has a counterpart of, for its report."""

from __future__ import annotations

from oodbench.benchmark.papers.match import Line, compare
from oodbench.benchmark.papers.published import VERIFIED, Reference, alternatives, read_reference, references
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.report.published import PublishedLine


def published_lines(run: StoredRun) -> list[PublishedLine]:
    """Numbers of every reference that ships with the package, where the run has a cell for them."""
    found: list[PublishedLine] = []
    for name in references():
        reference = read_reference(name)
        if _may_match(run, reference):
            found += [_line(reference, line) for line in compare(run, reference) if line.status and line.ours]
    return found


def _may_match(run: StoredRun, reference: Reference) -> bool:
    """Whether an ID set of the run is one of the reference's, which is fast to find out."""
    published = {name for value in reference.values for name in alternatives(value.id_set)}
    return not published.isdisjoint(record.id_set for record in run.records)


def _line(reference: Reference, line: Line) -> PublishedLine:
    value = line.published
    shown = line.ruled or line.ours
    return PublishedLine(
        reference=reference.name,
        title=reference.title,
        id_set=line.id_set,
        ood_set=line.ood_set,
        group=value.group,
        label=line.label,
        metric=value.metric,
        published=value.value,
        std=value.std,
        ours=None if shown is None else 100 * shown.mean,
        difference=line.difference,
        reasons=line.reasons,
        source=value.source,
        verified=value.mark == VERIFIED,
    )
