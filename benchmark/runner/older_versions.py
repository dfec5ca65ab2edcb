"""Says which artifacts and records of a plan exist from an older version of the code, and what has changed since.

Keys contain the versions of stages and plug-ins, so that what an older version computed is never used; but it is there,
and the user should know why a finished run is computed again. An older artifact is one whose file name, without the
hash, is that of a planned one, and whose key differs in nothing but versions, what keys include, and images under an
unchanged name.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.plan.plan import Plan
from oodbench.benchmark.plan.stage_versions import STAGE_VERSIONS
from oodbench.benchmark.plan.used_code import sets_of
from oodbench.benchmark.plugins.source_version import ONLY_IN
from oodbench.benchmark.records.record import OK, Record, read_record
from oodbench.benchmark.records.rows import cell_of
from oodbench.benchmark.runner.runner import Work
from oodbench.benchmark.stages.evaluate import key_content
from oodbench.benchmark.store.store import KEY_SCHEMA, Key, read_side_file

logger = logging.getLogger(__name__)

VERSIONS = {*STAGE_VERSIONS, "schema", "metrics", "intervals", "class_order"}
"""Fields of keys that are versions."""

VERSION_AT = {"audit": 1, "tuning_spread": 0, "extended": 0, "stability": 0}
"""Fields of keys that are lists with a version -> its place."""

ASKED_FOR = ("audit", "tuning_spread", "extended", "tuned", "bank", "maps", "observed", "stored", "block")
"""Fields that keys have if the user asked for it; other fields that one key lacks came or went with a version."""

DIGEST = re.compile(r"[0-9a-f]{64}")

SIDE = re.compile(r"(?P<label>.*)-[0-9a-f]{12}\.\w+\.json")
"""The file name of a side file."""

NAMED = 3
"""Number of plug-ins and of sets that are named; the others are counted."""


class Changes(NamedTuple):
    """What differs between two keys: changes of versions, and names of plug-ins and of sets of images that changed."""

    versions: frozenset[str] = frozenset()
    plugins: frozenset[str] = frozenset()
    sets: frozenset[str] = frozenset()

    def joined(self, others: Iterable[Changes]) -> Changes:
        """These and others."""
        return Changes(*(frozenset().union(*parts) for parts in zip(self, *others, strict=True)))

    def __str__(self) -> str:
        plugins = [f"{_listed(self.plugins, 'plug-in')} changed"] if self.plugins else []
        sets = [f"other images of {_listed(self.sets, 'set')}"] if self.sets else []
        return ", ".join([*sorted(self.versions), *plugins, *sets])


def _listed(names: Iterable[str], noun: str) -> str:
    """The first few names, and the number of the others."""
    ordered = sorted(names)
    more = len(ordered) - NAMED
    return f"{', '.join(ordered[:NAMED])}{f' and {more} more {noun}' + 's' * (more != 1) if more > 0 else ''}"


class UnlikeError(Exception):
    """Two keys differ in what was asked for."""


def log_older_versions(plan: Plan, work: Work, run_dir: Path, cache: Path) -> None:
    """Log one line if some of what is to be computed exists from an older version of the code; else nothing."""
    if work.force or not cache.is_dir():
        return
    older = _Older(plan, cache, run_dir.parent)
    artifacts = [changes for job in work.jobs for key in job.makes if (changes := older.artifact(key)) is not None]
    earlier = _earlier_records(run_dir)
    records = [
        changes
        for cell in work.cells
        if (changes := older.record(earlier.get(cell_of(cell.record), ()), key_content(cell))) is not None
    ]
    counts = [f"{len(found)} {noun}{'s' * (len(found) != 1)}" for found, noun in (
        (artifacts, "artifact"), (records, "record")) if found]  # fmt: skip
    if counts:
        exist, are = ("exist", "are") if len(artifacts) + len(records) != 1 else ("exists", "is")
        prune = "; 'bench cache prune' deletes the old artifacts afterwards" if artifacts else ""
        logger.info(
            f"{' and '.join(counts)} of this plan {exist} from an older version of the code "
            f"({Changes().joined([*artifacts, *records])}) and {are} computed again{prune}."
        )


class _Older:
    """Compares the keys of a plan with what a store and run folders hold."""

    def __init__(self, plan: Plan, cache: Path, runs: Path) -> None:
        self._cache, self._runs = cache, runs
        self._planned = {key.digest: key for job in plan.jobs.values() for key in job.makes}
        refs = [ref for job in plan.jobs.values() for ref in sets_of(job)]
        self._sets = {ref.checksum: (ref.set, ref.part, ref.limit) for ref in refs}
        self._known: dict[tuple[str, str], Changes | None] = {}
        self._contents: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}

    def artifact(self, key: Key) -> Changes | None:
        """What has changed since the store's artifact of this name was made; None if the key is stored, or none is."""
        if (self._cache / key.path).exists():
            return None
        found = (self._since(digest, key) for digest in self._older(key))
        return next((changes for changes in found if changes is not None), None)

    def record(self, earlier: Iterable[Record], new: Mapping[str, Any]) -> Changes | None:
        """What has changed since one of a cell's earlier records was made; None if all are of something else."""
        olds = [record.provenance.get("key") for record in earlier if record.status == OK]
        for old in olds:
            with suppress(UnlikeError):
                if isinstance(old, Mapping) and old != _as_json(new):
                    return self._changes(old, _as_json(new))
        return None

    def _since(self, digest: str, key: Key) -> Changes | None:
        """What has changed from an older artifact of a planned one's name; None if it is of something else."""
        pair = (digest, key.digest)
        if pair not in self._known:
            self._known[pair] = None  # keys that lead to themselves are forged
            new = {"kind": key.kind, "schema": KEY_SCHEMA, **key.content}
            with suppress(UnlikeError, KeyError):
                self._known[pair] = self._changes(self._older(key)[digest], _as_json(new))
        return self._known[pair]

    def _older(self, key: Key) -> dict[str, Mapping[str, Any]]:
        """The contents of the keys of all stored artifacts that have a planned one's name, by digest."""
        name = SIDE.fullmatch(f"{Path(key.path).name}.json")
        place = (key.kind, name["label"] if name else "")
        if place not in self._contents:
            sides = map(read_side_file, self._sides.get(place, []))
            known = {s["digest"]: s["key"] for s in sides if "digest" in s and isinstance(s.get("key"), Mapping)}
            self._contents[place] = known
        return self._contents[place]

    @cached_property
    def _sides(self) -> dict[tuple[str, str], list[Path]]:
        """The side files of the store, by kind and name without the hash."""
        found: dict[tuple[str, str], list[Path]] = {}
        for path in sorted(self._cache.glob("*/*.json")):
            if match := SIDE.fullmatch(path.name):
                found.setdefault((path.parent.name, match["label"]), []).append(path)
        return found

    @cached_property
    def _recorded(self) -> dict[Any, tuple[Any, ...]]:
        """The sets whose images had a checksum, from the records of all runs: name, part and limit by checksum."""
        records = filter(None, map(_read, sorted(self._runs.glob("*/cells/*.json"))))
        facts = [fact for record in records for fact in record.provenance.get("data", ())]
        return {fact.get("sha256"): (fact.get("set"), fact.get("part"), fact.get("limit", 0)) for fact in facts}

    def _changes(self, old: Any, new: Any, field: str = "") -> Changes:
        """What differs between two parts of keys. Raises `UnlikeError` if it is more than versions and images."""
        if old == new:
            return Changes()
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            is_plugin = _is_plugin(old) and _is_plugin(new)
            return self._of_plugins(old, new, field) if is_plugin else self._of_mappings(old, new)
        if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            place = VERSION_AT.get(field)
            fields = [field if place in (None, number) else "" for number in range(len(old))]
            return Changes().joined(self._changes(*three) for three in zip(old, new, fields, strict=True))
        if field in VERSIONS or field in VERSION_AT:
            return Changes(frozenset({f"{field.replace('_', ' ')} {old} -> {new}"}))
        if isinstance(old, str) and isinstance(new, str) and DIGEST.fullmatch(old) and DIGEST.fullmatch(new):
            return self._of_digests(old, new)
        raise UnlikeError

    def _of_mappings(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> Changes:
        found = []
        for name in old.keys() | new.keys():
            if name in old and name in new:
                found.append(self._changes(old[name], new[name], name))
            elif name in ASKED_FOR:
                raise UnlikeError
            elif new.get(name, old.get(name)) is not None:
                verb = "include" if name in new else "leave out"
                found.append(Changes(frozenset({f"keys {verb} {name.replace('_', ' ')}"})))
        return Changes().joined(found)

    def _of_plugins(self, old: Mapping[str, Any], new: Mapping[str, Any], field: str) -> Changes:
        """Of the same plug-in; settings that only one version has are part of what changed.

        A detector's settings that differ from their defaults are in the artifacts' names, which are equal: if they
        differ, and so does the version, the defaults have changed.
        """
        common = old["settings"].keys() & new["settings"].keys()
        alike = all(old["settings"][name] == new["settings"][name] for name in common)
        has_new_defaults = field in ("detector", "candidates") and old["version"] != new["version"]
        if old["name"] != new["name"] or not (alike or has_new_defaults):
            raise UnlikeError
        if ONLY_IN in f"{old['version']} {new['version']}":
            raise UnlikeError
        return Changes(plugins=frozenset({str(new["name"])}))

    def _of_digests(self, old: str, new: str) -> Changes:
        """Of artifacts that others are made from, or of images."""
        if new in self._planned:
            if (changes := self._since(old, self._planned[new])) is not None:
                return changes
        elif new in self._sets and self._recorded.get(old) == self._sets[new]:
            return Changes(sets=frozenset({self._sets[new][0]}))
        raise UnlikeError


def _as_json(value: Mapping[str, Any]) -> Any:
    """A value as it is read back from a JSON file, with lists in place of tuples."""
    return json.loads(json.dumps(value))


def _is_plugin(value: Mapping[str, Any]) -> bool:
    """Whether a part of a key is what `source_version.identity` returns."""
    return {"name", "settings", "version"} <= value.keys() and isinstance(value["settings"], Mapping)


def _earlier_records(run_dir: Path) -> dict[tuple[object, ...], list[Record]]:
    """The records in a run's folder, by cell; a cell may have several, made in unlike ways."""
    found: dict[tuple[object, ...], list[Record]] = {}
    for record in filter(None, map(_read, sorted(run_dir.glob("cells/*.json")))):
        found.setdefault(cell_of(record), []).append(record)
    return found


def _read(path: Path) -> Record | None:
    """A record; None if it does not exist or cannot be read."""
    try:
        return read_record(path) if path.is_file() else None
    except OodbenchError:
        return None
