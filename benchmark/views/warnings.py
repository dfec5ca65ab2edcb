"""Warnings of a table: numbers that are exact and yet may not say what they seem to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.records.record import Record

if TYPE_CHECKING:
    pass


WARNED = "¶"

CONSTANT, EXPECTED, TIED, REVERSED = "one score", "one score, as expected", "tied", "reversed"

TIED_SHARE = 0.01
"""Of a set's scores: more of them at the threshold are worth a warning."""

SENTENCES = {
    CONSTANT: "Warning: all images of a set have the same score, so that nothing is told apart within it",
    EXPECTED: "A sanity row gives all images the same score, as it is meant to: these are the numbers of a detector "
    "that knows nothing",
    TIED: "Warning: more than 1% of a set's images have exactly the score at which 95% of ID is accepted; TNR95 counts "
    "all of them as accepted",
    REVERSED: "Warning: AUROC under 50% on a far OOD set, whose images the score ranks as more in-distribution than "
    "those of the ID set",
}
"""What is said under the tables, before the cells it is true of."""

_DOUBTFUL: Mapping[str, tuple[str, ...]] = {
    CONSTANT: METRICS,
    EXPECTED: (),
    TIED: ("tnr_at_tpr95", "fpr_at_tpr95"),
    REVERSED: ("auroc",),
}

SHOWN = 3
"""Cells named a warning; of the others only the number is told."""


def warnings_of(records: Sequence[Record]) -> dict[str, str]:
    """Kind of warning -> what is to be told of one cell, whose seeds have these records; empty where all is well.

    Records of older versions lack what most warnings look at, and give none. A constant score is also tied at the
    threshold, which is not told again; a sanity row's AUROC may well be under 50%.
    """
    sanity = any(record.sanity for record in records)
    if kinds := sorted({kind for record in records for kind in _constant_over(record)}):
        return {EXPECTED if sanity else CONSTANT: " and ".join(kinds)}
    if sanity:
        return {}
    found = {}
    shares = {kind: max((_share_tied(record, kind) for record in records), default=0.0) for kind in ("id", "ood")}
    if max(shares.values()) > TIED_SHARE:
        found[TIED] = ", ".join(f"{100 * share:.1f}% of {kind.upper()}" for kind, share in shares.items())
    areas = [record.metrics["auroc"] for record in records if record.group == "far" and "auroc" in record.metrics]
    if areas and sum(areas) / len(areas) < 0.5:
        found[REVERSED] = f"{100 * sum(areas) / len(areas):.1f}"
    return found


def _constant_over(record: Record) -> Iterator[str]:
    """'ID' and 'OOD', where all images of that set have one score; a single image always has."""
    for kind, images in (("id", record.n_id), ("ood", record.n_ood)):
        if record.ties.get(f"distinct_{kind}") == 1 and images != 1:
            yield kind.upper()


def _share_tied(record: Record, kind: str) -> float:
    """Share of a set's scores that equal the threshold, which one ID score always does and is then not tied."""
    images, equal = (record.n_id if kind == "id" else record.n_ood), record.ties.get(f"at_threshold_{kind}", 0)
    return equal / images if images and equal > (kind == "id") else 0.0


def doubtful(warnings: Mapping[str, str], metric: str) -> bool:
    """Whether a cell's value of that metric is to carry the mark."""
    return any(metric in _DOUBTFUL[kind] for kind in warnings)
