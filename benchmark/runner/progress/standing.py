"""The best row so far, from the cells that are finished: what a display shows while the rest is computed."""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Iterable

from oodbench.benchmark.errors import visible
from oodbench.benchmark.records.given_sets import plain_name
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.views.marks import percent
from oodbench.benchmark.views.summary import EVERY, GROUPS

METRIC = "auroc"


class Standing:
    """Mean AUROC of every row over near and far OOD sets, as in the tables, of rows that have all sets of a group.

    Sets with the distribution of the suite's outliers are left out, as they are in the tables. A row counts with the
    seeds that are complete. Cells may come in any order.
    """

    def __init__(self, planned: Iterable[Record] = (), kept: Iterable[Record] = ()) -> None:
        self._groups: dict[str, dict[str, list[str]]] = {}
        self._rows: dict[str, dict[str, None]] = defaultdict(dict)
        self._found: dict[tuple[str, str], dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        self._last, self._lock = "", threading.Lock()
        for record in planned:
            self._rows[record.id_set][record.label] = None
            groups = self._groups.setdefault(record.id_set, {})
            if not record.outlier_source:
                for group in (record.group, EVERY):
                    members = groups.setdefault(group, [])
                    members += [record.ood_set] * (record.ood_set not in members)
        for record in kept:
            self.add(record)

    def add(self, record: Record) -> None:
        """Take in a finished cell; one without a number changes nothing."""
        if record.status == OK and METRIC in record.metrics and not record.outlier_source:
            with self._lock:
                self._found[record.id_set, record.label][record.seed][record.ood_set] = record.metrics[METRIC]
                self._last = record.id_set

    def _means(self, id_set: str, label: str) -> dict[str, float]:
        """A row's mean over each group of which it has all sets: seed by seed, then over seeds."""
        shown = [group for group in GROUPS if group in self._groups.get(id_set, {})] or [EVERY]
        found = {}
        for group in shown:
            sets = self._groups.get(id_set, {}).get(group, [])
            seeds = [[of[name] for name in sets] for of in self._found[id_set, label].values() if of.keys() >= {*sets}]
            if sets and seeds:
                found[group] = math.fsum(math.fsum(values) / len(values) for values in seeds) / len(seeds)
        return found

    def line(self, id_set: str = "") -> str:
        """The best row on an ID set, that of the last finished cell by default; empty if no row is complete.

        Such as 'digits: vim, near 85.7, far 99.8 AUROC (14 of 37 rows)'. Rows are ordered by the first group that the
        ID set has; the first of the plan leads among equal ones.
        """
        with self._lock:  # a display's thread asks while cells are added
            id_set = id_set or self._last
            rows = {label: means for label in self._rows.get(id_set, ()) if (means := self._means(id_set, label))}
        first = next((group for group in (*GROUPS, EVERY) if any(group in means for means in rows.values())), "")
        if not first:
            return ""
        label, means = max(rows.items(), key=lambda row: row[1].get(first, -1.0))
        numbers = ", ".join(f"{group} {percent(mean)}" for group, mean in means.items())
        complete = sum(first in means for means in rows.values())
        name, leader = visible(plain_name(id_set)), visible(label)
        return f"{name}: {leader}, {numbers} AUROC ({complete} of {len(self._rows[id_set])} rows)"
