"""Decides which cells of a run's earlier commands stay when another command runs under the same name.

neither flag   cells that the last command did not plan stay if they are what it would have computed: the same
               options, versions of the code, images and trainings. The others leave the table, and a message says
               which and why. Their artifacts stay in the store.
--add          all stay; unlike ones become rows of their own (`records/rows.py`)
--only         none stays
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from oodbench.benchmark.metrics.names import METRICS_VERSION
from oodbench.benchmark.plan.jobs import ScoreJob
from oodbench.benchmark.plan.plan import Plan, Request
from oodbench.benchmark.plan.suite import Suite
from oodbench.benchmark.plugins.source_version import ONLY_IN
from oodbench.benchmark.records.record import OK, Record, write_record
from oodbench.benchmark.records.rows import cell_of
from oodbench.benchmark.records.unfinished import listed_cells, part_of
from oodbench.benchmark.runner.cell_origins import NOT_OF_A_CELL, scored_images
from oodbench.benchmark.runner.code_versions import CURRENT, has_changed, plugins_in
from oodbench.benchmark.stats.intervals import INTERVALS_VERSION
from oodbench.benchmark.store.store import digest

logger = logging.getLogger(__name__)

VALID, ALL, NONE = "valid", "all", "none"
"""Which cells of earlier commands stay: by default, with --add, with --only."""

ADDITIONAL = "stability"
"""A further field of a request that does not change what a cell is: it asks for a number more."""

OUTPUTS = ("logits", "features")
"""Kinds of artifacts that say what a network gave for which images."""

NAMED = 3
"""Number of differences that a message names."""


# Options


def options_of(command: Mapping[str, Any], suite: Suite) -> dict[str, Any]:
    """What a command, as `run.json` records it, asks of every cell; what it leaves to the suite is the suite's."""
    names = [one.name for one in fields(Request) if one.name not in (*NOT_OF_A_CELL, ADDITIONAL)]
    found = {name: command.get(name) or getattr(suite, name, None) or None for name in names}
    text = str(command.get("suite_toml", ""))
    asked = {**found, "suite": Path(str(command.get("suite", ""))).stem, "text of the suite": digest([text])[:12]}
    plain: dict[str, Any] = json.loads(json.dumps(asked))  # lists for tuples, as they are read back
    return plain


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """The options that two commands have unlike."""
    for name in dict.fromkeys([*earlier, *now]):
        before, after = earlier.get(name), now.get(name)
        if before != after:
            how = "changed" if name == "text of the suite" else f"{_shown(before)} -> {_shown(after)}"
            yield f"{name.replace('_', '-')} {how}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(Path(str(item)).name for item in value)
    return "none" if value is None else str(value)


# What stays


def valid_part(
    earlier: Mapping[str, Any], records: Mapping[str, Record], plan: Plan, info: Mapping[str, Any]
) -> dict[str, Any]:
    """Of `run.json` of earlier commands, with their records by file name, what stays beside the cells of a plan.

    A message says how many cells do not, and why; those in whose place the plan's have come are not counted.
    """
    planned = {cell.record.file_name for cell in plan.cells}
    taken = {cell_of(cell.record) for cell in plan.cells}
    judge = _Judge(earlier, plan, info)
    kept, left = [], Counter[str]()
    for name in listed_cells(earlier):
        record = records.get(name)
        if name in planned or (record is not None and cell_of(record) in taken):
            continue
        if reason := judge.against(name, record):
            left[reason] += 1
        else:
            kept.append(name)
    for reason, count in left.items():
        are = ("cell", "is", "it stays") if count == 1 else ("cells", "are", "they stay")
        logger.info(
            f"{count} earlier {are[0]} of the run '{info['name']}' {are[1]} no longer in its tables ({reason}); "
            f"{are[2]} in the store. Use --add to keep unlike cells as rows of their own, or another --name."
        )
    return _only(earlier, kept, records, plan)


def _only(earlier: Mapping[str, Any], kept: list[str], records: Mapping[str, Record], plan: Plan) -> dict[str, Any]:
    """`run.json` of earlier commands as if they had made planned cells and those `kept` alone; empty without these."""
    if not kept:
        return {}
    stay = [records[name] for name in kept if name in records]
    planned = {(pair.id.set, pair.ood.set) for pair in plan.pairs}
    again = {cell.record.file_name for cell in plan.cells}
    found = {**earlier, "cells": [name for name in listed_cells(earlier) if name in again or name in kept]}
    found["pairs"] = [one for one in earlier.get("pairs", ()) if (one["id_set"], one["ood_set"]) not in planned]
    if len(stay) == len(kept):
        found["seeds"] = sorted({record.seed for record in stay})
        labels = {*(record.label for record in stay), *(cell.record.label for cell in plan.cells)}
        found["detectors"] = [label for label in earlier.get("detectors", ()) if label in labels]
    return found


class _Judge:
    """Says why an earlier cell is not what a command would compute."""

    def __init__(self, earlier: Mapping[str, Any], plan: Plan, info: Mapping[str, Any]) -> None:
        self._changed = cache(has_changed)
        now = info["parts"][-1]["options"]
        self._parts = [self._unlike(part, now) for part in parts_of(earlier, plan.suite)]
        self._number = part_of(earlier)
        unlisted = [number for number, part in enumerate(parts_of(earlier, plan.suite)) if "cells" not in part]
        self._unlisted = next((self._parts[number] for number in unlisted if self._parts[number]), "")
        if not unlisted:
            self._unlisted = "an older version of oodbench did not record its options"
        self._trained = {_training(c.record): c.checkpoint.key.path for c in plan.cells if c.checkpoint is not None}
        self._outputs = _outputs_of(plan)
        self._images: dict[tuple[str, ...], Mapping[str, Any]] = {}
        for pair in plan.pairs:
            scored = scored_images(pair)
            self._images[("id", pair.id.set)] = scored["id"]
            self._images[("ood", pair.id.set, pair.ood.set)] = scored["ood"]

    @staticmethod
    def _unlike(part: Mapping[str, Any], now: Mapping[str, Any]) -> str:
        differ = list(_differences(part.get("options", {}), now))
        more = f" and {len(differ) - NAMED} more" if len(differ) > NAMED else ""
        return f"other options: {', '.join(differ[:NAMED])}{more}" if differ else ""

    def against(self, name: str, record: Record | None) -> str:
        """The reason why the cell of a record file must go, as a clause; '' if it may stay."""
        number = self._number.get(name)
        if reason := self._unlisted if number is None else self._parts[number]:
            return reason
        return "" if record is None else self._other_code(record) or self._other_inputs(record)

    def _other_code(self, record: Record) -> str:
        """What has changed in the code behind a cell with numbers."""
        if record.status != OK:
            return ""
        resolved = {**record.provenance.get("key", {}), **record.provenance.get("resolved", {})}
        if "detector" not in resolved:
            return "an older version of oodbench did not record what made them"
        for kind, plugin, version in plugins_in(resolved):
            if self._changed(kind, plugin, version.partition(ONLY_IN)[0]):
                return f"the code of {kind} '{plugin}' has changed"
        versions = {**CURRENT, "metrics": METRICS_VERSION, "intervals": INTERVALS_VERSION}
        stale = [name for name, now in versions.items() if name in resolved and resolved[name] != now]
        return f"an older version of oodbench made them: {', '.join(stale)}" if stale else ""

    def _other_inputs(self, record: Record) -> str:
        """What the plan trains or scores otherwise under the same names."""
        images = record.origin.get("images", {})
        places = {"id": ("id", record.id_set), "ood": ("ood", record.id_set, record.ood_set)}
        for side, place in places.items():
            if side in images and place in self._images and dict(images[side]) != dict(self._images[place]):
                return f"other images of '{place[-1]}'"
        made, now = record.artifacts.get("checkpoint", ""), self._trained.get(_training(record), "")
        if made and now and made != now:
            return f"another training on '{record.id_set}'"
        read = self._outputs.get(_training(record), {})
        for artifact in record.provenance.get("artifacts", ()):
            path = str(artifact.get("path", ""))
            if artifact.get("kind") in OUTPUTS and path not in read.get(_label(path), {path}):
                return f"other {artifact['kind']} of the network on '{record.id_set}'"
        return ""


def _outputs_of(plan: Plan) -> dict[tuple[object, ...], dict[str, set[str]]]:
    """Classifier -> the logits and features that a plan scores of it: the name of each without its hash -> paths."""
    found: dict[tuple[object, ...], dict[str, set[str]]] = {}
    for cell in plan.cells:
        paths = found.setdefault(_training(cell.record), {})
        for job in (plan.jobs[id_] for id_ in cell.waits_for if id_ in plan.jobs):
            if isinstance(job, ScoreJob):
                for key in (job.outputs.logits, job.outputs.features):
                    paths.setdefault(_label(key.path), set()).add(key.path)
    return found


def _label(path: str) -> str:
    """The path of an artifact without the hash of its key."""
    return path.rpartition("-")[0]


def _training(record: Record) -> tuple[object, ...]:
    """What names a classifier, whatever made it: of given weights and outputs, the names of files, not their bytes."""
    named = {name: value for name, value in record.recipe_settings.items() if name != "sha256"}
    settings = json.dumps(named, sort_keys=True, default=str)
    return record.id_set, record.backbone, record.recipe, settings, record.seed


def regroup(run_dir: Path, records: Mapping[str, Record], kept: Iterable[str], plan: Plan) -> None:
    """Give records that stay the group that the plan gives their pair: it is stated, not computed."""
    groups = {(pair.id.set, pair.ood.set): pair.group for pair in plan.pairs}
    for name in kept:
        record = records.get(name)
        if record is not None and groups.get((record.id_set, record.ood_set), record.group) != record.group:
            write_record(run_dir, replace(record, group=groups[record.id_set, record.ood_set]))


# Commands


def parts_of(info: Mapping[str, Any], suite: Suite) -> list[dict[str, Any]]:
    """The parts of a run, one for each of its commands; of a run of an older version, without lines and cells."""
    commands = info.get("commands", ())
    parts = info.get("parts", ())
    if len(parts) == len(commands):
        return [dict(part) for part in parts]
    return [{"line": "", "options": options_of(command, suite)} for command in commands]


def joined_commands(
    earlier: Mapping[str, Any], kept: Iterable[str], info: Mapping[str, Any], suite: Suite
) -> dict[str, Any]:
    """`commands` and `parts` of earlier commands, as far as cells are still theirs, before those of the last one.

    `kept`: names of the record files that earlier commands made and the last one did not plan.
    """
    commands, parts, numbers = list(earlier.get("commands", ())), parts_of(earlier, suite), part_of(earlier)
    own: dict[int | None, list[str]] = {}
    for name in kept:
        own.setdefault(numbers.get(name), []).append(name)
    unlisted = [number for number, part in enumerate(parts) if "cells" not in part]
    if len(unlisted) == 1:  # the last part, whose cells are those that no other lists
        own[unlisted[0]] = own.pop(None, [])
    rest = bool(own.get(None))
    found = [
        (command, {**part, **({"cells": own[number]} if number in own else {})})
        for number, (command, part) in enumerate(zip(commands, parts, strict=True))
        if own.get(number) or (rest and number in unlisted)
    ]
    last = info["commands"]
    found = [one for one in found if one[0] not in last]  # the cells of the same command are those of the last part
    return {
        "commands": [*(command for command, _ in found), *last],
        "parts": [*(part for _, part in found), *info["parts"]],
    }
