"""Does a run still say what its stored scores say? Reads everything again and changes nothing.

Every artifact that a cell hangs on is hashed once; every metric and interval is computed anew from the stored scores,
and so is who may be the best of a column; every table from what was computed. Not checked: seconds, plots, and the
pixel statistics of `run.json`, which come from images and not from scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from oodbench.benchmark.compare.best_set import judge_best
from oodbench.benchmark.compare.column import by_column
from oodbench.benchmark.compare.scored_images import ScoredImages
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import OodbenchError, first_line
from oodbench.benchmark.metrics.exact import evaluate
from oodbench.benchmark.plugins.specs import Spec, create
from oodbench.benchmark.records.best import NAME as BEST
from oodbench.benchmark.records.best import is_outdated, read_best
from oodbench.benchmark.records.cell_names import cell_name
from oodbench.benchmark.records.csv_file import ENDS
from oodbench.benchmark.records.paths import cache_of
from oodbench.benchmark.records.record import OK, Record, read_record
from oodbench.benchmark.records.run import Run, read_run
from oodbench.benchmark.store.lineage import side_files, upstream_artifacts
from oodbench.benchmark.store.store import digest, file_sha256, read_side
from oodbench.benchmark.verify.recompute import Recompute
from oodbench.benchmark.views.tables import table_files

ROUNDING, LOOSE = 1e-12, 1e-9
"""How far a metric computed anew may be off, as another numpy may add the same numbers in another order; and intervals
and extended metrics, whose functions another SciPy or numpy may approximate in another way."""

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
    intervals: int = 0
    artifacts: int = 0
    bytes: int = 0
    unchecked: dict[str, int] = field(default_factory=dict)
    """What could not be checked here, and for how many cells."""

    def summary(self) -> str:
        """All of it in one line."""
        told = f"{self.cells} cells, {self.metrics:,} metrics, {self.intervals:,} intervals, "
        told += f"{self.artifacts} artifacts ({self.bytes / 1e6:.1f} MB)"
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
        self.images = ScoredImages(Library(data_dir, cache / "data"))
        self.recompute = Recompute(self.images, self.whole_artifact)
        self.found = Verdict()
        self.artifacts: dict[str, Artifact] = {}
        self.paths: dict[str, str] = {}
        """Where the whole artifacts lie, by their keys' digests."""
        self.doubted: set[tuple[str, str]] = set()
        """Columns (ID set, OOD set) in which a cell's scores are not those that it was made from."""
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
            self.best(checked)
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
            self.doubted.add((record.id_set, record.ood_set))
        paths = [record.artifacts.get(which, "") for which in ("id_scores", "ood_scores")]
        if any(path in bad or not path for path in paths):
            return record
        recomputed = self.recomputed(record, paths)
        problems = list(_differences(record, recomputed))
        self.found.metrics += len(record.metrics) + sum(map(len, record.audit.values())) + len(record.extended)
        self.found.intervals += len(record.intervals)
        self.found.problems += [f"{name}: {problem}" for problem in problems]
        return recomputed if problems else record

    def chain(self, record: Record) -> dict[str, str]:
        """The artifacts that a cell hangs on, and their SHA-256 where the record tells it."""
        known = {made["path"]: made["sha256"] for made in record.provenance.get("artifacts", ())}
        own = list(record.artifacts.values())
        return {path: known.get(path, "") for path in own} | (
            known or dict.fromkeys(sorted(upstream_artifacts(self.cache, self.sides, own)), "")
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
        id_scores, ood_scores = scores = [np.load(self.cache / path, allow_pickle=False) for path in paths]
        logits = self.artifacts[paths[0]].key.get("outputs", {}).get("logits", "")
        try:
            values = evaluate(id_scores, ood_scores)
            intervals = self.recompute.intervals(record, values, scores) if record.intervals else {}
            extended = self.recompute.extended(record, logits, scores) if record.extended else {}
        except OodbenchError as error:
            self.found.problems.append(f"{cell_name(record)}: {error}")
            return record
        accuracy = self.recompute.accuracy(record, logits, len(id_scores))
        return replace(
            record,
            tpr=values.pop("tpr"),
            metrics=values,
            n_id=len(id_scores),
            n_ood=len(ood_scores),
            intervals=self.checked("confidence intervals", intervals, record.intervals),
            extended=self.checked("extended metrics", extended, record.extended),
            id_accuracy=self.checked("ID accuracy", accuracy, record.id_accuracy),
            audit=self.audit(record, id_scores, ood_scores),
            key=self.key(record, paths),
        )

    def checked(self, what: str, found: Any, recorded: Any) -> Any:
        """What was computed anew; what the record says where that cannot be, and `found` says why."""
        if not isinstance(found, str):
            return found
        self.unchecked(f"{what}, {found}")
        return recorded

    def whole_artifact(self, digest_: str) -> tuple[Path, Mapping[str, Any]] | None:
        """A whole artifact that some cell hangs on, by its key's digest."""
        path = self.paths.get(digest_)
        return (self.cache / path, self.artifacts[path].key) if path and not self.artifacts[path].wrong else None

    def unchecked(self, what: str) -> None:
        self.found.unchecked[what] = self.found.unchecked.get(what, 0) + 1

    def audit(self, record: Record, id_scores: np.ndarray, ood_scores: np.ndarray) -> Mapping[str, Mapping[str, float]]:
        """The values by other metric rules that the record has, computed anew."""
        if not record.audit:
            return record.audit
        from oodbench.benchmark.stages.evaluate import evaluate_by_rules

        try:
            detector = create("detector", Spec(record.detector, tuple(sorted(record.settings.items()))))
            return {rules: evaluate_by_rules(rules, detector, id_scores, ood_scores) for rules in record.audit}
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

    def best(self, run: Run) -> None:
        """Judge anew who may be the best of each column, where the run tells it."""
        if is_outdated(run):
            told = "it cannot be read, or judges other records; the command that made the run, once more, judges anew"
            self.found.problems.append(f"{BEST}: {told}")
        kept = read_best(run)
        columns = {
            place: records
            for place, records in by_column(run.records).items()
            if place in kept and place not in self.doubted and self.known("who may be the best", records)
        }
        records = [record for own in columns.values() for record in own]
        for found in judge_best(records, self.cache, self.images)[0]:
            if found != kept[found.id_set, found.ood_set]:
                column = f"{found.id_set} against {found.ood_set}"
                self.found.problems.append(f"{BEST}: who may be the best of {column} is not what the scores give")

    def known(self, what: str, records: Sequence[Record]) -> bool:
        """Whether the images of a column are at hand, which tell what belongs together; if not, it is told."""
        first = next(record for record in records if record.status == OK)
        sizes = ((first.id_set, first.n_id or 0), (first.ood_set, first.n_ood or 0))
        found = [self.images.of(first, name, count) for name, count in sizes]
        for reason in [one for one in found if isinstance(one, str)][:1]:
            self.found.unchecked[f"{what}, {reason}"] = self.found.unchecked.get(f"{what}, {reason}", 0) + len(records)
        return not any(isinstance(one, str) for one in found)

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
    for metric in sorted({*record.intervals, *recomputed.intervals}):
        ends = zip(ENDS, *(_ends(one.intervals.get(metric)) for one in (record, recomputed)), strict=True)
        for end, told, found in ends:
            yield from _difference(f"the interval's {end} end of {metric}", told, found, LOOSE)
    for metric in sorted({*record.extended, *recomputed.extended}):
        yield from _difference(metric, record.extended.get(metric), recomputed.extended.get(metric), LOOSE)
    for rules, values in recomputed.audit.items():
        for metric in sorted({*values, *record.audit[rules]}):
            yield from _difference(f"{metric} by {rules}", record.audit[rules].get(metric), values.get(metric))


def _ends(interval: Sequence[float] | None) -> Sequence[float | None]:
    return interval if interval is not None and len(interval) == len(ENDS) else (None,) * len(ENDS)


def _difference(name: str, told: float | None, found: float | None, off: float = ROUNDING) -> Iterable[str]:
    known = told is not None and found is not None
    if told is not found and not (known and math.isclose(told or 0, found or 0, rel_tol=0, abs_tol=off)):
        yield f"{name} is {told} in the record and {found} from its artifacts"


def _counted(names: list[str]) -> str:
    more = f" and {len(names) - CELLS_NAMED} more" if len(names) > CELLS_NAMED else ""
    return f"{len(names)} cell{'s' * (len(names) != 1)} on it: {', '.join(names[:CELLS_NAMED])}{more}"
