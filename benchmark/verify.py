"""Does a run still say what its stored scores say? Reads everything again and changes nothing.

Every artifact that a cell hangs on is hashed once; every metric is computed anew from the stored scores, and every
table from the metrics computed. Not checked: seconds, plots, confidence intervals and extended metrics, and the pixel
statistics of `run.json`, which come from images and not from scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from oodbench.benchmark.cells import cell_name
from oodbench.benchmark.data import Library
from oodbench.benchmark.errors import OodbenchError, first_line
from oodbench.benchmark.lineage import made_from, side_files
from oodbench.benchmark.metrics import evaluate
from oodbench.benchmark.records import OK, Record, Run, cache_of, read_record, read_run
from oodbench.benchmark.specs import Spec, create, parse_set
from oodbench.benchmark.store import digest, file_sha256, read_side
from oodbench.benchmark.views.tables import table_files

ROUNDING = 1e-12
"""How far a metric computed anew may be off: another numpy may add the same numbers in another order."""
CELLS_NAMED = 3
"""Cells that hang on a bad artifact and are named before the rest is counted."""


class Artifact(NamedTuple):
    """What is found of an artifact: `wrong` is empty if it is whole."""

    wrong: str = ""
    sha256: str = ""
    bytes: int = 0
    digest: str = ""
    key: Mapping[str, Any] = {}
    """What it was made from, as its side file says."""


@dataclass
class Verdict:
    """What was checked, and what is wrong with it, a sentence each."""

    problems: list[str] = field(default_factory=list)
    cells: int = 0
    without_numbers: int = 0
    metrics: int = 0
    artifacts: int = 0
    bytes: int = 0
    unchecked: dict[str, int] = field(default_factory=dict)
    """What could not be checked here, and for how many cells."""

    def summary(self) -> str:
        """All of it in one line."""
        told = f"{self.cells} cells, {self.metrics:,} metrics, {self.artifacts} artifacts ({self.bytes / 1e6:.1f} MB)"
        told += f", {self.without_numbers} cells without numbers" if self.without_numbers else ""
        told += "".join(f"; not checked for {count} cells: {what}" for what, count in self.unchecked.items())
        return f"{len(self.problems)} problems in {told}." if self.problems else f"All is well: {told}."


def verify(run_dir: Path, results: Path, data_dir: Path) -> Verdict:
    """Check a run's records, artifacts and tables. Raises `UserError` for a folder that holds no run."""
    run = _Verifier(run_dir, cache_of(run_dir, results), data_dir)
    return run.verdict()


class _Verifier:
    """Checks one run."""

    def __init__(self, run_dir: Path, cache: Path, data_dir: Path) -> None:
        self.run_dir, self.cache = run_dir, cache
        self.library = Library(data_dir, cache / "data")
        self.found = Verdict()
        self.artifacts: dict[str, Artifact] = {}
        self.paths: dict[str, str] = {}
        """Where the whole artifacts lie, by their keys' digests."""
        self.accuracies: dict[tuple[str, str], float | str] = {}
        """ID accuracy by logits and ID set, or why it is not known."""
        self.hanging: dict[str, list[str]] = {}
        """What is wrong with an artifact -> the cells that hang on it."""

    def verdict(self) -> Verdict:
        try:
            run: Run | None = read_run(self.run_dir)
        except OodbenchError as error:
            run = None
            self.found.problems += self.unreadable() or [str(error)]
        if run is not None:
            self.found.problems += self.absent(run)
            checked = replace(run, records=[self.cell(record) for record in run.records])
            self.found.problems += [f"{told}; {_counted(names)}" for told, names in self.hanging.items()]
            self.tables(checked)
        self.found.artifacts, self.found.bytes = len(self.artifacts), sum(a.bytes for a in self.artifacts.values())
        return self.found

    def unreadable(self) -> list[str]:
        """What is wrong with record files, as sentences; the run cannot be read with them."""
        return [told for path in sorted((self.run_dir / "cells").glob("*.json")) if (told := _unreadable(path))]

    def absent(self, run: Run) -> list[str]:
        """The cells that `run.json` lists and that have no record."""
        listed = [self.run_dir / "cells" / Path(name).name for name in run.info.get("cells", [])]
        return [f"cells/{path.name}: not there; the run was stopped before it" for path in listed if not path.is_file()]

    def cell(self, record: Record) -> Record:
        """Check one cell; return its record with the metrics that its scores give."""
        if record.status != OK:
            self.found.without_numbers += 1
            return record
        self.found.cells += 1
        name = cell_name(record)
        bad = {path: wrong for path, sha in self.chain(record).items() if (wrong := self.wrong(path, sha))}
        for path, wrong in bad.items():
            self.hanging.setdefault(f"{path}: {wrong}", []).append(name)
        paths = [record.artifacts.get(which, "") for which in ("id_scores", "ood_scores")]
        if any(path in bad or not path for path in paths):
            return record
        recomputed = self.recomputed(record, paths)
        problems = list(_differences(record, recomputed))
        self.found.metrics += len(record.metrics) + sum(map(len, record.audit.values()))
        self.found.problems += [f"{name}: {problem}" for problem in problems]
        return recomputed if problems else record

    def chain(self, record: Record) -> dict[str, str]:
        """The artifacts that a cell hangs on, and their SHA-256 where the record tells it."""
        known = {made["path"]: made["sha256"] for made in record.provenance.get("artifacts", ())}
        own = list(record.artifacts.values())
        return {path: known.get(path, "") for path in own} | (
            known or dict.fromkeys(sorted(made_from(self.cache, self.sides, own)), "")
        )

    @cached_property
    def sides(self) -> dict[Path, dict[str, Any]]:
        """Every side file of the store, for records that do not tell what they hang on."""
        return side_files(self.cache)

    def wrong(self, path: str, expected: str) -> str:
        """What is wrong with an artifact, hashed once; empty if it is the one that a record was made from."""
        if path not in self.artifacts:
            self.artifacts[path] = _examined(self.cache / path)
            self.paths[self.artifacts[path].digest] = path
        found = self.artifacts[path]
        if found.wrong or not expected or found.sha256 == expected:
            return found.wrong
        return f"made anew since: its SHA-256 is {found.sha256[:12]}, and the cell was made from {expected[:12]}"

    def recomputed(self, record: Record, paths: list[str]) -> Record:
        """The record with everything computed anew that can be."""
        id_scores, ood_scores = (np.load(self.cache / path, allow_pickle=False) for path in paths)
        try:
            values = evaluate(id_scores, ood_scores)
        except OodbenchError as error:
            self.found.problems.append(f"{cell_name(record)}: {error}")
            return record
        return replace(
            record,
            tpr=values.pop("tpr"),
            metrics=values,
            n_id=len(id_scores),
            n_ood=len(ood_scores),
            id_accuracy=self.accuracy(record, paths[0]),
            audit=self.audit(record, id_scores, ood_scores),
            key=self.key(record, paths),
        )

    def accuracy(self, record: Record, id_scores: str) -> float | None:
        """ID accuracy from the stored logits and the labels at hand; what the record says where that cannot be."""
        wanted = (self.artifacts[id_scores].key.get("outputs", {}).get("logits", ""), record.id_set)
        if wanted not in self.accuracies:
            self.accuracies[wanted] = self.measured_accuracy(*wanted)
        found = self.accuracies[wanted]
        if isinstance(found, float):
            return found
        self.unchecked(found)
        return record.id_accuracy

    def measured_accuracy(self, logits: str, id_set: str) -> float | str:
        if logits not in self.paths:
            return "ID accuracy, whose logits are not there"
        try:
            images = self.library.part(parse_set(id_set), "test")
        except OodbenchError:
            return "ID accuracy, whose images are not in --data-dir"
        if images.labels is None or images.checksum != self.artifacts[self.paths[logits]].key.get("data"):
            return "ID accuracy, because the images at hand are others"
        values = np.load(self.cache / self.paths[logits], mmap_mode="r", allow_pickle=False)
        return float(np.mean(values.argmax(axis=1) == images.labels))

    def unchecked(self, what: str) -> None:
        self.found.unchecked[what] = self.found.unchecked.get(what, 0) + 1

    def audit(self, record: Record, id_scores: np.ndarray, ood_scores: np.ndarray) -> Mapping[str, Mapping[str, float]]:
        """The values by other metric rules that the record has, computed anew."""
        if not record.audit:
            return record.audit
        from oodbench.benchmark.audit import audited

        try:
            detector = create("detector", Spec(record.detector, tuple(sorted(record.settings.items()))))
            return {rules: audited(rules, detector, id_scores, ood_scores) for rules in record.audit}
        except OodbenchError as error:
            self.unchecked(f"values by other metric rules ({first_line(error)})")
            return record.audit

    def key(self, record: Record, paths: list[str]) -> str:
        """The key that the record should have; its own where older versions did not tell what it is made of."""
        content = record.provenance.get("key")
        if not isinstance(content, dict):
            return record.key
        scores = [self.artifacts[path] for path in paths]
        logits = scores[0].key.get("outputs", {}).get("logits")
        return digest({**content, "scores": [one.digest for one in scores], "id": logits})

    def tables(self, run: Run) -> None:
        """Compare the tables in the run's folder with those that the checked records give, byte by byte."""
        for name, content in table_files(run).items():
            path = self.run_dir / name
            if not path.is_file():
                self.found.problems.append(f"{name}: not there; 'bench table {self.run_dir.name}' writes it")
            elif path.read_bytes() != content.encode():
                self.found.problems.append(
                    f"{name}: its bytes are not what the scores give; 'bench table {self.run_dir.name}' writes it anew "
                    "from the records"
                )


def _unreadable(path: Path) -> str:
    try:
        read_record(path)
    except OodbenchError as error:
        return f"cells/{path.name}: {error}"
    return ""


def _examined(path: Path) -> Artifact:
    if not path.is_file():
        return Artifact("not there")
    side = read_side(path)
    found, size = file_sha256(path), path.stat().st_size
    if "sha256" not in side or not isinstance(side.get("key"), dict):
        return Artifact("damaged: it has no side file that can be read", found, size)
    if digest(side["key"]) != side.get("digest") or side["digest"][:12] not in path.name:
        return Artifact("damaged: its side file is that of another key", found, size)
    if found != side["sha256"]:
        return Artifact(f"damaged: its SHA-256 is {found[:12]} in place of {side['sha256'][:12]}", found, size)
    return Artifact("", found, size, side["digest"], side["key"])


def _differences(record: Record, recomputed: Record) -> Iterable[str]:
    if record.key != recomputed.key:
        yield "its key is not that of its scores and metrics"
    for name in ("tpr", "n_id", "n_ood", "id_accuracy"):
        yield from _difference(name, getattr(record, name), getattr(recomputed, name))
    for metric in sorted({*record.metrics, *recomputed.metrics}):
        yield from _difference(metric, record.metrics.get(metric), recomputed.metrics.get(metric))
    for rules, values in recomputed.audit.items():
        for metric in sorted({*values, *record.audit[rules]}):
            yield from _difference(f"{metric} by {rules}", record.audit[rules].get(metric), values.get(metric))


def _difference(name: str, told: float | None, found: float | None) -> Iterable[str]:
    known = told is not None and found is not None
    if told is not found and not (known and math.isclose(told or 0, found or 0, rel_tol=0, abs_tol=ROUNDING)):
        yield f"{name} is {told} in the record and {found} from its artifacts"


def _counted(names: list[str]) -> str:
    more = f" and {len(names) - CELLS_NAMED} more" if len(names) > CELLS_NAMED else ""
    return f"{len(names)} cell{'s' * (len(names) != 1)} on it: {', '.join(names[:CELLS_NAMED])}{more}"
