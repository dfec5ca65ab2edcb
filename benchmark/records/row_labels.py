"""Labels of the rows of a run's tables where several would have the same: `msp (epochs=2)`, `msp (a/best.pth)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from oodbench.benchmark.records.record import Record
from oodbench.benchmark.store.store import digest

Facts = Mapping[str, Any]
"""Name -> number or text."""

FIRST = (
    *("older", "source", "schedule epochs", "limit_train", "limit_test", "precision", "threads", "schedule batch_size"),
    "protocol",
)
FILES = ("file", "path")
RUN, SUITE = "run", "suite"
"""Names of facts that labels take first, after other facts, after these, and last."""

ALONE = ("file", "path", "older", "source", RUN)
"""Facts that are shown without their name."""

NAMES = {
    "detector version": "source", "recipe version": "recipe source", "backbone version": "backbone source",
    "recipe name": "recipe", "backbone name": "backbone", "train": "training images", "training": "training version",
    "import": "import version", "scoring": "scoring version",
}  # fmt: skip
"""Names of facts in labels, where they are not those in keys."""

SHORT, LONG = 6, 20
"""Characters of a hash in a label; a text of more than `LONG` is shown by its hash."""


def label_rows(rows: Sequence[tuple[Record, Facts]], of_runs: bool = False) -> list[str]:
    """A label for each row, given as any of its records and its facts: different ones on the same ID set.

    A label names the backbone if the rows have several. It names further facts only if, on some ID set, another row has
    the same label; then all rows of that label name them. Beside rows of other runs (`of_runs`) all rows of all labels
    do, so that each says what it belongs to; they name the run if neither backbone nor such a fact tells runs apart.
    """
    several = len({record.backbone for record, _ in rows if record.backbone}) > 1
    alike: dict[tuple[str, str], dict[str, list[int]]] = {}
    for number, (record, _) in enumerate(rows):
        on_sets = alike.setdefault((record.label, record.backbone if several else ""), {})
        on_sets.setdefault(record.id_set, []).append(number)
    labels = [""] * len(rows)
    telling = {
        key: dict.fromkeys(n for numbers in on_sets.values() for n in _telling([rows[i][1] for i in numbers]))
        for key, on_sets in alike.items()
    }
    every = dict.fromkeys(name for names in telling.values() for name in names) or ({} if several else {RUN: None})
    for (label, backbone), on_sets in alike.items():
        needed = every if of_runs else telling[label, backbone]
        for number in (number for numbers in on_sets.values() for number in numbers):
            facts = rows[number][1]
            parts = [backbone] if several and backbone else []
            parts += [_shown(name, facts[name]) for name in needed if name in facts]
            labels[number] = f"{label} ({'; '.join(parts)})" if parts else label
    return _different(labels, rows)


def _telling(rows: Sequence[Facts]) -> list[str]:
    """Names of facts that together differ between all of these rows, as far as facts do: one, if one does.

    Facts that can be read come before hashes.
    """
    if len(rows) < 2:
        return []
    names = list(dict.fromkeys(name for facts in rows for name in facts))
    inner = [name for name in names if name not in (*FIRST, *FILES, RUN, SUITE)]
    hashes = [name for name in inner if any(len(str(facts.get(name, ""))) > LONG for facts in rows)]
    plain = [name for name in inner if name not in hashes]
    readable = [name for name in (*FIRST, *plain, *FILES, RUN) if name in names]
    values = {name: [_shown(name, facts.get(name)) for facts in rows] for name in names}
    if alone := [name for name in readable if len(set(values[name])) == len(rows)]:
        return alone[:1]
    chosen: list[str] = []
    kinds: list[tuple[str, ...]] = [()] * len(rows)
    for name in (*readable, *hashes, *([SUITE] if SUITE in names else [])):
        finer = [(*kind, value) for kind, value in zip(kinds, values[name], strict=True)]
        if len(set(finer)) > len(set(kinds)):
            kinds, chosen = finer, [*chosen, name]
    return chosen


def _shown(name: str, value: Any) -> str:
    """A fact in a label."""
    text = str(value)
    if len(text) > LONG and name not in ALONE:
        is_hash = all(c in "0123456789abcdef" for c in text)
        text = text[:SHORT] if is_hash else digest(text)[:SHORT]
    return text if name in ALONE else f"{NAMES.get(name) or _plain(name)}={text}"


def _plain(name: str) -> str:
    """A name in keys, such as 'schedule batch_size' or 'recipe settings alpha', as a user would write it."""
    return name.removeprefix("schedule ").removeprefix("detector settings ").replace(" settings ", " ")


def _different(labels: Sequence[str], rows: Sequence[tuple[Record, Facts]]) -> list[str]:
    """The labels, numbered where facts leave two of one ID set the same."""
    taken: set[tuple[str, str]] = set()
    found = []
    for label, (record, _) in zip(labels, rows, strict=True):
        number, text = 1, label
        while (record.id_set, text) in taken:
            number += 1
            text = f"{label[:-1]}; {number})" if label.endswith(")") else f"{label} ({number})"
        taken.add((record.id_set, text))
        found.append(text)
    return found
