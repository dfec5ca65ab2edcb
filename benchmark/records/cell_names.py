"""Names of cells on the command line: `ID_SET/OOD_SET/DETECTOR[settings]@recipe/SEED`."""

from __future__ import annotations

from collections.abc import Sequence

from oodbench.benchmark.errors import UserError, did_you_mean
from oodbench.benchmark.records.record import Record

SHOWN = 12
"""Number of matches that an error lists; the rest is counted."""


def cell_name(record: Record) -> str:
    """The name of a cell, unique within a run."""
    return f"{_pair_and_label(record)}/{record.seed}"


def find_cell(records: Sequence[Record], text: str) -> Record:
    """The only cell whose name matches `text`.

    A part may be '*', parts may be omitted at the end, and a detector's name matches its label. Raises `UserError` if
    no cell or several cells match; the latter are listed.
    """
    exact = [record for record in records if text in (cell_name(record), _pair_and_label(record))]
    found = exact or _matching(records, text)
    if len(found) == 1:
        return found[0]
    names = [cell_name(record) for record in found or records]
    if found:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise UserError(f"'{text}' matches {len(names)} cells: {', '.join(names[:SHOWN])}{more}. Name one of them.")
    usage = "Write ID_SET/OOD_SET/DETECTOR, with '*' for any of them."
    hint = did_you_mean(text, [*names, *map(_pair_and_label, records)], otherwise=usage, cutoff=0.5)
    raise UserError(f"The run has no cell '{text}'. {hint}")


def _pair_and_label(record: Record) -> str:
    return f"{record.id_set}/{record.ood_set}/{record.label}"


def _matching(records: Sequence[Record], text: str) -> list[Record]:
    parts = text.split("/")
    if len(parts) > 4:
        return []
    parts += ["*"] * (4 - len(parts))
    by_label = [record for record in records if _matches(parts, record, record.label)]
    return by_label or [record for record in records if _matches(parts, record, record.detector)]


def _matches(parts: Sequence[str], record: Record, detector: str) -> bool:
    values = (record.id_set, record.ood_set, detector, str(record.seed))
    return all(part in ("*", "", value) for part, value in zip(parts, values, strict=True))
