"""Writes `records.csv`: the tidy table of a run, with one row per cell."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable

from oodbench.benchmark.metrics.names import EXTENDED_METRICS, METRICS, RULE_METRICS, SPREAD, STABILITY
from oodbench.benchmark.records.record import Record

ENDS = ("low", "high")
"""Suffixes of the columns of an interval."""

CSV_COLUMNS = (
    "id_set", "ood_set", "group", "seen", "detector", "settings", "recipe", "backbone", "seed", "status", "reason",
    "n_id", "n_ood", "id_accuracy", *METRICS, "forward_images", "seconds", "key", "notes",
    *(f"{metric}_{end}" for metric in METRICS for end in ENDS),
)  # fmt: skip


def records_csv(records: Iterable[Record]) -> str:
    """The tidy table, with one row per cell: raw floats, `settings` as JSON, empty where not available.

    If a record has values by other metric rules, extended metrics or stability, the last columns are `RULES_METRIC`,
    then `extended_METRIC`, `stability_CHANGE` and `tuning_spread`. If the other columns do not tell all rows of the
    run's tables apart, the last one is `label`. Of several runs side by side, `run` follows.
    """
    records = list(records)
    rules = sorted({name for record in records for name in record.audit})
    extended_metrics = EXTENDED_METRICS if any(record.extended for record in records) else ()
    spread = (SPREAD,) if any("spread" in record.tuned for record in records) else ()
    changes = STABILITY if any(record.stability for record in records) else ()
    columns = (
        *CSV_COLUMNS,
        *(f"{name}_{metric}" for name in rules for metric in RULE_METRICS),
        *(f"extended_{name}" for name in extended_metrics),
        *(f"stability_{name}" for name in changes),
        *spread,
        *(("label",) if _need_labels(records) else ()),
        *(("run",) if any(hasattr(record, "run") for record in records) else ()),
    )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for record in records:
        audit = {f"{name}_{metric}": value for name, values in record.audit.items() for metric, value in values.items()}
        ends = {
            f"{metric}_{end}": value
            for metric, interval in record.intervals.items()
            for end, value in zip(ENDS, interval, strict=True)
        }
        extended = {f"extended_{name}": value for name, value in record.extended.items()}
        stability = {f"stability_{name}": value for name, value in record.stability.items()}
        row = {**dataclasses.asdict(record), **record.metrics, **ends, **audit, **extended, **stability}
        row[SPREAD] = record.tuned.get("spread")
        row["settings"] = json.dumps(record.settings, sort_keys=True)
        row["seen"] = str(record.seen).lower()
        row["notes"] = "; ".join(record.notes)
        row["seconds"] = f"{record.seconds:.3f}"
        writer.writerow(["" if row.get(column) is None else row[column] for column in columns])
    return out.getvalue()


def _need_labels(records: Iterable[Record]) -> bool:
    """Whether records of two rows of a table are equal in everything that identifies a cell but their label."""
    labels: dict[str, str] = {}
    for r in records:
        settings = [dict(r.settings), r.recipe, dict(r.recipe_settings), r.backbone]
        cell = json.dumps([r.id_set, r.ood_set, r.detector, *settings], sort_keys=True)
        if labels.setdefault(cell, r.label) != r.label:
            return True
    return False
