"""What made a cell's numbers, apart from its seed: cells may share a mean only if this is equal.

It is found from the keys of artifacts, as they stand in the plan and in the side files of the store. Whatever is part
of a key counts by itself: settings, source versions, images, schedule, precision, the bytes of a file of weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oodbench.benchmark.metrics.names import SPREAD
from oodbench.benchmark.plan.stage_versions import STAGE_VERSIONS
from oodbench.benchmark.plugins.source_version import ONLY_IN
from oodbench.benchmark.store.schema import Origin
from oodbench.benchmark.store.store import digest

Keys = Mapping[str, Mapping[str, Any]]
"""Digest of a key -> its content with `kind`."""

ASKED = ("audit", "extended", "stability")
"""Parts of a cell's key for numbers besides the exact metrics: each counts among the cells that have it."""

VERSIONS = ("schema", *STAGE_VERSIONS, "metrics", "intervals", "class_order")
"""Versions of the harness in keys. A cell of other versions is computed again, in the place of the earlier one."""

NO_FACTS = ("kind", "schema", "seed", "given", "outputs", "fitted", "tuned", "bank", "data")
"""Fields of keys that name other artifacts, or do not tell rows apart."""

TRIED = "tried"
"""Scores that settings were chosen by, which follow from the rest of the key; records do not name their artifacts."""


class Origins:
    """Finds the origins of cells, given the keys of all artifacts behind them."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._seedless: dict[tuple[str, bool, tuple[str, ...]], Seedless] = {}

    def of(
        self, content: Mapping[str, Any], checkpoint: str | None, tuned_on: str = "", files: Sequence[str] = ()
    ) -> Origin:
        """The origin of a cell with artifacts.

        Args:
            content: The content of the cell's key.
            checkpoint: Digest of the key of its checkpoint; None for scores that the user gives.
            tuned_on: The protocol, if it chooses settings for every cell of a row on other images; empty otherwise.
            files: SHA-256 of the files of weights, or of the arrays, that differ from seed to seed, in their order;
                empty if there are none.

        Returns:
            file        for the name of the record's file; the same for all seeds and versions of the harness
            row         equal in all cells of a row of a table
            cell        equal in all seeds of a cell
            asked       equal, name by name, in those cells of a row that have metrics besides the exact ones
            facts       name -> number or text, for the labels of rows that would otherwise have the same
            tuned_on    the argument, if it is not empty
            files       the argument, if it is not empty

        Raises:
            KeyError: A key is missing.
        """
        id_scores = content["scores"][0]
        of_cell = {name: value for name, value in content.items() if name not in (*ASKED, SPREAD)}
        of_row = {name: value for name, value in of_cell.items() if name != "groups"}
        files = tuple(files)
        in_row = self._without_seed(tuned_on, files)
        facts: dict[str, Any] = {}
        for name in filter(None, (content["id"], checkpoint, id_scores)):
            facts |= _facts(self.keys[name], self.keys)
        if files and facts.get("bytes") in files:
            facts["bytes"] = digest(list(files))
        origin: Origin = {
            "file": self._without_seed("", files, lasting=True).digest(of_cell),
            "row": in_row.digest({**of_row, "scores": [id_scores]}),
            "cell": self._without_seed("", files).digest(of_cell),
            "asked": {name: in_row.digest({"of": value}) for name, value in _asked(content)},
            "facts": {**facts, "protocol": tuned_on} if tuned_on else facts,
        }
        if tuned_on:
            origin["tuned_on"] = tuned_on
        if files:
            origin["files"] = list(files)
        return origin

    def _without_seed(self, tuned_on: str, files: tuple[str, ...], lasting: bool = False) -> Seedless:
        place = tuned_on, lasting, files
        return self._seedless.setdefault(place, Seedless(self.keys, tuned_on, lasting, files))


class Seedless:
    """Digests of keys without the seed, in the keys that they refer to as well.

    Args:
        keys: All keys that may be referred to.
        tuned_on: Takes the place of a choice of settings, which differs from cell to cell; empty to keep the choice.
        lasting: Leave out what changes when the same cell is computed again by another version or command.
        files: SHA-256 of the files of weights of the seeds: each counts as all of them.
    """

    def __init__(self, keys: Keys, tuned_on: str = "", lasting: bool = False, files: Sequence[str] = ()) -> None:
        self.keys, self.tuned_on, self.lasting = keys, tuned_on, lasting
        self.files = dict.fromkeys(files, digest(list(files)))
        self._digests: dict[str, str] = {}

    def digest(self, content: Mapping[str, Any]) -> str:
        """The digest of a key's content, which does not depend on the seed of any training behind it."""
        left_out = ("seed", "schema", TRIED, *(VERSIONS if self.lasting else ()))
        kept = {name: self._without(value) for name, value in content.items() if name not in left_out}
        if self.tuned_on and "tuned" in kept:
            kept["tuned"] = self.tuned_on
        return digest(kept)

    def _without(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: self._without(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._without(item) for item in value]
        if isinstance(value, str):
            return self._of_key(value) if value in self.keys else self._text(value)
        return value

    def _text(self, value: str) -> str:
        value = self.files.get(value, value)
        return value.partition(ONLY_IN)[0] if self.lasting else value

    def _of_key(self, name: str) -> str:
        if name not in self._digests:
            self._digests[name] = self.digest(self.keys[name])
        return self._digests[name]


def _asked(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a cell has besides the exact metrics, each with what it was computed from."""
    yield from ((name, content[name]) for name in ASKED if name in content and name != "audit")
    if "audit" in content:
        rules, version = content["audit"]
        yield from ((f"rules {name}", version) for name in ([rules] if isinstance(rules, str) else rules))


def _facts(key: Mapping[str, Any], keys: Keys) -> dict[str, Any]:
    """The fields of a key, with those of nested mappings, by name."""
    facts: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(dict(key))).items():
        if name not in NO_FACTS and not (isinstance(value, str) and value in keys):
            facts |= _flat("bytes" if name == "file" else name, value)  # a key has the SHA-256 of a file
    return facts


def _flat(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {path: item for inner, one in value.items() for path, item in _flat(f"{name} {inner}", one).items()}
    return {name: json.dumps(value) if isinstance(value, list) else value}
