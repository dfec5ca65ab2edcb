"""Checks that the tables of a run join only cells that were made alike, by the artifacts in the store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from oodbench.benchmark.records.cell_names import cell_name
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.rows import unlike
from oodbench.benchmark.runner.origin import ASKED, Origins
from oodbench.benchmark.store.schema import Origin


class JoinedRows:
    """Finds what made every cell once more, from the keys in side files, and compares it over what the tables join.

    Args:
        artifacts: Path in the store -> digest and content of the key, of all undamaged artifacts behind the cells.
    """

    def __init__(self, artifacts: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
        self.digests = {path: digest for path, (digest, _) in artifacts.items()}
        self.keys = dict(artifacts.values())
        self.origins = Origins(self.keys)

    def problems(self, records: Iterable[Record]) -> Iterator[str]:
        """One sentence for each cell whose record says what its artifacts do not, or that is joined with unlike ones.

        `records` have labels and sets as the tables do. What made a cell of an older version is not recorded, and such
        a cell is joined with none of this one.
        """
        found = []
        for record in records:
            origin = self._origin(record)
            if any(record.origin.get(name) != value for name, value in origin.items()):
                yield f"{cell_name(record)}: what made it, by which rows are told apart, is not what its artifacts say"
            found.append(replace(record, origin={**record.origin, **origin}))
        yield from unlike(found)

    def _origin(self, record: Record) -> Origin:
        """What made a cell, from its artifacts; empty if the record does not say which they are, or has no numbers."""
        content, checkpoint = record.provenance.get("key"), record.artifacts.get("checkpoint", "")
        if record.status != OK or "row" not in record.origin or not isinstance(content, dict):
            return {}
        try:
            given = record.origin.get("tuned_on", ""), record.origin.get("files", ())
            origin = self.origins.of(content, self.digests[checkpoint], *given)
            return origin if self._complete(content) else {**origin, "asked": record.origin.get("asked", {})}
        except (KeyError, TypeError, ValueError):  # damaged, which is reported, or a record that was edited
            return {}

    def _complete(self, content: Mapping[str, Any]) -> bool:
        """Whether the artifacts of all metrics besides the exact ones are there; a cell may lack some and be whole."""
        parts = [content[name] for name in ASKED if name != "audit" and name in content]
        return all(name in self.keys for part in parts for name in part[1:])
