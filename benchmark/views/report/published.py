"""Published numbers beside a report's own: the lines, which `papers/` finds, at their rows and sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from oodbench.benchmark.errors import visible
from oodbench.benchmark.views.metric_titles import metric_of
from oodbench.benchmark.views.report import data
from oodbench.benchmark.views.report.tables import Shown


@dataclass(frozen=True)
class PublishedLine:
    """A published number with its counterpart in a run, in percent."""

    reference: str
    """The name of the reference, for `bench table --against`."""
    title: str
    id_set: str
    ood_set: str
    """Empty for means and for the accuracy."""
    group: str
    """'near' or 'far' for a mean over sets, otherwise empty."""
    label: str
    metric: str
    published: str
    """As printed."""
    std: str
    ours: float | None
    difference: float | None
    """Ours minus published, by the published number's rules if these were computed."""
    reasons: tuple[str, ...]
    """How our protocol differs from the published one."""
    source: str
    verified: bool


def published_of(shown: Shown, lines: Iterable[PublishedLine]) -> Iterator[data.PublishedNumber]:
    """The lines that are about rows of a block."""
    rows = {row.label: place for place, row in shown.rows()}
    sets = {ood.name: place for place, ood in enumerate(shown.block.sets)}
    for line in lines:
        if line.id_set == shown.block.id_set and line.label in rows and (not line.ood_set or line.ood_set in sets):
            yield data.PublishedNumber(
                reference=line.reference,
                title=visible(line.title),
                block=shown.place,
                row=rows[line.label],
                set=sets.get(line.ood_set),
                group=line.group,
                metric=line.metric,
                published=line.published,
                std=line.std,
                ours=None if line.ours is None else round(line.ours, 2),
                difference=None if line.difference is None else round(line.difference, 2),
                reasons=[visible(reason) for reason in line.reasons],
                source=visible(line.source),
                verified=line.verified,
                metric_title=metric_of(line.metric).full_title,
            )
