"""Compares a record's numbers with recomputed ones, for `bench verify`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from oodbench.benchmark.records.csv_file import ENDS
from oodbench.benchmark.records.record import Record

ROUNDING, LOOSE = 1e-12, 1e-9
"""Absolute difference allowed between recorded and recomputed numbers. `ROUNDING` is for metrics: another NumPy may add
the same numbers in another order. `LOOSE` is for intervals and extended metrics, whose functions another SciPy or NumPy
may approximate differently."""


def differences(record: Record, recomputed: Record) -> Iterable[str]:
    """One clause for each number of a record that differs from the recomputed one."""
    if record.key != recomputed.key:
        yield "its key does not match its scores and metrics"
    for name in ("tpr", "n_id", "n_ood", "id_accuracy"):
        yield from _difference(name, getattr(record, name), getattr(recomputed, name))
    for metric in sorted({*record.metrics, *recomputed.metrics}):
        yield from _difference(metric, record.metrics.get(metric), recomputed.metrics.get(metric))
    for name in sorted({*record.ties, *recomputed.ties}):
        yield from _difference(name.replace("_", " "), record.ties.get(name), recomputed.ties.get(name))
    for metric in sorted({*record.intervals, *recomputed.intervals}):
        ends = zip(ENDS, *(_ends(one.intervals.get(metric)) for one in (record, recomputed)), strict=True)
        for end, recorded, found in ends:
            yield from _difference(f"the {end} end of the interval of {metric}", recorded, found, LOOSE)
    for metric in sorted({*record.extended, *recomputed.extended}):
        yield from _difference(metric, record.extended.get(metric), recomputed.extended.get(metric), LOOSE)
    yield from _by_class(record, recomputed)
    for name in sorted({*record.stability, *recomputed.stability}):
        yield from _difference(f"stability, {name},", record.stability.get(name), recomputed.stability.get(name))
    recorded_by, found_by = (one.tuned.get("by_source", {}) for one in (record, recomputed))
    for source in sorted(found_by):
        yield from _difference(f"AUROC as tuned on {source} alone", recorded_by.get(source), found_by[source])
    yield from _difference("the tuning spread", record.tuned.get("spread"), recomputed.tuned.get("spread"))
    for rules, values in recomputed.audit.items():
        for metric in sorted({*values, *record.audit[rules]}):
            yield from _difference(f"{metric} by {rules}", record.audit[rules].get(metric), values.get(metric))


def _by_class(record: Record, recomputed: Record) -> Iterable[str]:
    """The same for AUROCs by class."""
    for side in ("id", "ood"):
        classes, found = getattr(record.by_class, side), getattr(recomputed.by_class, side)
        if [(one.name, one.images) for one in classes] != [(one.name, one.images) for one in found]:
            yield f"its {side.upper()} classes are not those of its images"
            return
        for one, other in zip(classes, found, strict=True):
            for number in ("auroc", "low", "high"):
                what = "" if number == "auroc" else f"the {number} end of the interval of "
                what += f"AUROC of the {side.upper()} class '{one.name}'"
                yield from _difference(what, getattr(one, number), getattr(other, number), LOOSE)
    pairs, recorded = recomputed.by_class.pairs, record.by_class.pairs
    if len(pairs) != len(recorded) or not np.allclose(pairs or 0, recorded or 0, rtol=0, atol=ROUNDING):
        yield "the AUROCs of its pairs of classes are not those of its scores"


def _ends(interval: Sequence[float] | None) -> Sequence[float | None]:
    return interval if interval is not None and len(interval) == len(ENDS) else (None,) * len(ENDS)


def _difference(name: str, recorded: float | None, found: float | None, tolerance: float = ROUNDING) -> Iterable[str]:
    both = recorded is not None and found is not None
    if recorded is not found and not (both and math.isclose(recorded or 0, found or 0, rel_tol=0, abs_tol=tolerance)):
        yield f"{name} is {recorded} in the record, but {found} from its artifacts"
