"""Cells by name: `ID_SET/OOD_SET/DETECTOR[settings]@recipe/SEED`, as commands print them and take them."""

from __future__ import annotations

from collections.abc import Sequence

from oodbench.benchmark.errors import UserError, did_you_mean
from oodbench.benchmark.records.record import Record

SHOWN = 12
"""Matches that an error lists before it counts the rest."""


def cell_name(record: Record) -> str:
    """What a cell is called: unique within a run."""
    return f"{_pair_and_label(record)}/{record.seed}"


def find_cell(records: Sequence[Record], text: str) -> Record:
    """The one cell that `text` names, the seed left out where there is one only.

    '*' stands for any part, and parts may be left out at the end; a detector's name stands for its label. Raises
    `UserError` for what names no cell or several; the latter are listed.
    """
    exact = [record for record in records if text in (cell_name(record), _pair_and_label(record))]
    found = exact or _matching(records, text)
    if len(found) == 1:
        return found[0]
    names = [cell_name(record) for record in found or records]
    if found:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise UserError(f"'{text}' names {len(names)} cells: {', '.join(names[:SHOWN])}{more}. Name one of them.")
    usage = "Write ID_SET/OOD_SET/DETECTOR, with '*' for any of them."
    hint = did_you_mean(text, [*names, *map(_pair_and_label, records)], otherwise=usage, cutoff=0.5)
    raise UserError(f"The run has no cell '{text}'. {hint}")


def _pair_and_label(record: Record) -> str:
    return f"{record.id_set}/{record.ood_set}/{record.label}"


def _matching(records: Sequence[Record], text: str) -> list[Record]:
    asked = text.split("/")
    if len(asked) > 4:
        return []
    parts = [*asked, *["*"] * (4 - len(asked))]
    by_label = [record for record in records if _fits(parts, record, record.label)]
    return by_label or [record for record in records if _fits(parts, record, record.detector)]


def _fits(parts: Sequence[str], record: Record, detector: str) -> bool:
    own = (record.id_set, record.ood_set, detector, str(record.seed))
    return all(part in ("*", "", value) for part, value in zip(parts, own, strict=True))
