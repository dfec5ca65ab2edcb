"""Warnings of a table: numbers that are exact and may still mislead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.records.record import MISFIT, Record

WARNED = "¶"
"""Marks a number with a warning."""

CONSTANT, EXPECTED, TIED, REVERSED = "one score", "one score, as expected", "tied", "reversed"
UNFIT = "unfit"
"""The kinds of warnings."""

TIED_SHARE = 0.01
"""Share of a set's scores: if more of them are equal to the threshold, there is a warning."""

SENTENCES = {
    UNFIT: "Warning: the given weights do not fit the ID set's labels, for which the notes give the reason",
    CONSTANT: "Warning: all images of a set have the same score, so that nothing is told apart within it",
    EXPECTED: "A sanity row gives all images the same score, as it is meant to: these are the numbers of a detector "
    "that knows nothing",
    TIED: "Warning: more than 1% of a set's images have exactly the score at which 95% of ID is accepted; TNR95 counts "
    "all of them as accepted",
    REVERSED: "Warning: AUROC under 50% on a far OOD set, whose images the score ranks as more in-distribution than "
    "those of the ID set",
}
"""Kind of warning -> its sentence under the tables; the cells it applies to follow."""

_DOUBTFUL: Mapping[str, tuple[str, ...]] = {
    CONSTANT: METRICS,
    EXPECTED: (),
    TIED: ("tnr_at_tpr95", "fpr_at_tpr95"),
    REVERSED: ("auroc",),
    UNFIT: METRICS,
}
"""Kind of warning -> the metrics that it makes doubtful."""


def warnings_of(records: Sequence[Record]) -> dict[str, str]:
    """Kind of warning -> its details for one cell, given the records of the cell's seeds; empty if there is none.

    Records of older versions lack what most warnings need, and give none. A constant score is also tied at the
    threshold, which is not reported in addition. A sanity row's AUROC may be under 50% without a warning.
    """
    found = {UNFIT: accuracies} if (accuracies := ", ".join(map(_misfit, records)).strip(", ")) else {}
    sanity = any(record.sanity for record in records)
    if kinds := sorted({kind for record in records for kind in _constant_over(record)}):
        return {**found, EXPECTED if sanity else CONSTANT: " and ".join(kinds)}
    if sanity:
        return found
    shares = {kind: max((_share_tied(record, kind) for record in records), default=0.0) for kind in ("id", "ood")}
    if max(shares.values()) > TIED_SHARE:
        found[TIED] = ", ".join(f"{100 * share:.1f}% of {kind.upper()}" for kind, share in shares.items())
    areas = [record.metrics["auroc"] for record in records if record.group == "far" and "auroc" in record.metrics]
    if areas and sum(areas) / len(areas) < 0.5:
        found[REVERSED] = f"{100 * sum(areas) / len(areas):.1f}"
    return found


def _misfit(record: Record) -> str:
    """The accuracy of given weights that do not fit the ID set's labels; empty if they do."""
    if record.id_accuracy is None or not any(note.startswith(MISFIT) for note in record.notes):
        return ""
    return f"accuracy {100 * record.id_accuracy:.1f}%"


def _constant_over(record: Record) -> Iterator[str]:
    """'ID' and 'OOD', if all images of that set have the same score and there is more than one image."""
    for kind, images in (("id", record.n_id), ("ood", record.n_ood)):
        if record.ties.get(f"distinct_{kind}") == 1 and images != 1:
            yield kind.upper()


def _share_tied(record: Record, kind: str) -> float:
    """Share of a set's scores equal to the threshold; 0 for the one ID score that always is."""
    images, equal = (record.n_id if kind == "id" else record.n_ood), record.ties.get(f"at_threshold_{kind}", 0)
    return equal / images if images and equal > (kind == "id") else 0.0


def doubtful(warnings: Mapping[str, str], metric: str) -> bool:
    """Whether a cell's warnings concern its value of `metric`, which then gets the mark."""
    return any(metric in _DOUBTFUL[kind] for kind in warnings)
