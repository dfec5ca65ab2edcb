"""Verifies a finished run against its stored scores, for `bench verify`. Reads everything and changes nothing.

Every artifact that a cell depends on is hashed once, and so are the files of its data sets. Metrics, intervals and the
best of each column are recomputed from the stored scores, and the tables from the recomputed numbers. Not checked:
seconds, plots, and the baselines without a network in `run.json`, which come from images and not from scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from oodbench.benchmark.comparisons.best_set import judge_best
from oodbench.benchmark.comparisons.column import by_column
from oodbench.benchmark.comparisons.scored_images import ScoredImages
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import OodbenchError, counted, first_line, visible
from oodbench.benchmark.metrics.exact import Counts, evaluate_counts, ties_of
from oodbench.benchmark.plugins.specs import Spec, create
from oodbench.benchmark.records.best import NAME as BEST
from oodbench.benchmark.records.best import is_outdated, read_best
from oodbench.benchmark.records.cell_names import cell_name
from oodbench.benchmark.records.paths import cache_of
from oodbench.benchmark.records.record import OK, Record, read_record
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.runner.run_data import adopt_folders
from oodbench.benchmark.runner.run_view import view_in
from oodbench.benchmark.store.lineage import paths_by_digest, side_files, upstream_artifacts
from oodbench.benchmark.store.npy import load_array
from oodbench.benchmark.store.schema import ByClass
from oodbench.benchmark.store.store import digest
from oodbench.benchmark.verify.artifacts import Artifact, examine
from oodbench.benchmark.verify.data_sets import DataSets
from oodbench.benchmark.verify.differences import differences
from oodbench.benchmark.verify.given_files import GivenFiles
from oodbench.benchmark.verify.joined_rows import JoinedRows
from oodbench.benchmark.verify.recompute import Recompute, logits_behind
from oodbench.benchmark.views.tables.files import table_files

CELLS_NAMED = 3
"""Number of cells named per bad artifact; the rest is counted."""


@dataclass
class Verdict:
    """What was checked, and the problems found."""

    problems: list[str] = field(default_factory=list)
    """One line each."""
    cells: int = 0
    """Number of cells with numbers; the following counts are of what was checked, too."""
    without_numbers: int = 0
    metrics: int = 0
    intervals: int = 0
    artifacts: int = 0
    bytes: int = 0
    unchecked: dict[str, int] = field(default_factory=dict)
    """What could not be checked, with the reason -> number of cells."""

    def summary(self) -> str:
        """The counts in one line."""
        text = (
            f"{counted(self.cells, 'cell')}, {counted(self.metrics, 'metric')}, {counted(self.intervals, 'interval')}, "
        )
        text += f"{counted(self.artifacts, 'artifact')} ({self.bytes / 1e6:.1f} MB)"
        text += f", {counted(self.without_numbers, 'cell')} without numbers" if self.without_numbers else ""
        text += "".join(f"; not checked for {counted(count, 'cell')}: {what}" for what, count in self.unchecked.items())
        return f"{counted(len(self.problems), 'problem')} in {text}." if self.problems else f"No problems: {text}."


def verify(run_dir: Path, results: Path, data_dir: Path) -> Verdict:
    """Check a run's records, artifacts and tables.

    Args:
        run_dir: The run's folder.
        results: The results folder, whose store has the artifacts unless the run has its own.
        data_dir: The folder with the files of data sets, for labels and groups of images.

    Raises:
        UserError: The folder contains no run.
    """
    return _OfRun(run_dir, cache_of(run_dir, results), data_dir).verdict()


class Verifier:
    """The verification of a run by its records and a store.

    Args:
        run_dir: The run's folder.
        cache: The store with its artifacts.
        images: Finds the images on which cells were scored.
    """

    def __init__(self, run_dir: Path, cache: Path, images: ScoredImages) -> None:
        self.run_dir, self.cache, self.images = run_dir, cache, images
        self.recompute = Recompute(self.images, self.undamaged_artifact)
        self.result = Verdict()
        self.artifacts: dict[str, Artifact] = {}
        """Path in the store -> artifact, for every artifact examined so far."""
        self.paths: dict[str, str] = {}
        """Digest of a key -> path in the store."""
        self.doubtful: set[tuple[str, str]] = set()
        """Columns (ID set, OOD set) with a cell that depends on a bad artifact."""
        self.affected: dict[str, list[str]] = {}
        """What is wrong with an artifact -> names of the cells that depend on it."""

    def verdict(self) -> Verdict:
        """Check everything, and return what was checked and found."""
        try:
            run: StoredRun | None = read_stored_run(self.run_dir)
        except OodbenchError as error:
            run = None
            self.result.problems += self.unreadable() or [str(error)]
        if run is not None:
            self.result.problems += self.absent(run)
            self.begin(run)
            checked = replace(run, records=[self.cell(record) for record in run.records])
            self.result.problems += [f"{problem}; {_counted(names)}" for problem, names in self.affected.items()]
            self.result.problems += self.joined_rows(checked)
            self.best(checked)
            self.tables(checked)
        self.result.problems = [visible(problem) for problem in self.result.problems]
        self.result.artifacts, self.result.bytes = len(self.artifacts), sum(a.bytes for a in self.artifacts.values())
        return self.result

    def unreadable(self) -> list[str]:
        """One problem for each record file that cannot be read."""
        return [problem for path in sorted((self.run_dir / "cells").glob("*.json")) if (problem := _unreadable(path))]

    def absent(self, run: StoredRun) -> list[str]:
        """One problem for each cell that `run.json` lists and that has no record."""
        listed = [self.run_dir / "cells" / Path(name).name for name in run.info.get("cells", [])]
        return [f"cells/{path.name}: missing; the run was stopped before it" for path in listed if not path.is_file()]

    def cell(self, record: Record) -> Record:
        """Check one cell; returns its record with the numbers that its scores give."""
        if record.status != OK:
            self.result.without_numbers += 1
            return record
        self.result.cells += 1
        name = cell_name(record)
        bad = {path: problem for path, sha in self.upstream(record).items() if (problem := self.problem(path, sha))}
        for path, problem in bad.items():
            self.affected.setdefault(f"{path}: {problem}", []).append(name)
            self.doubtful.add((record.id_set, record.ood_set))
        for problem in self.inputs(record):
            self.affected.setdefault(problem, []).append(name)
        paths = [record.artifacts.get(which, "") for which in ("id_scores", "ood_scores")]
        if any(path in bad or not path for path in paths):
            return record
        recomputed = self.recomputed(record, paths)
        problems = list(differences(record, recomputed))
        self.result.metrics += len(record.metrics) + sum(map(len, record.audit.values())) + len(record.extended)
        self.result.metrics += len(record.stability) + len(record.by_class.id) + len(record.by_class.ood)
        self.result.intervals += len(record.intervals)
        self.result.problems += [f"{name}: {problem}" for problem in problems]
        return recomputed if problems else record

    def begin(self, run: StoredRun) -> None:
        """What is done before the cells of a run are checked."""

    def inputs(self, record: Record) -> Iterable[str]:
        """What is wrong with the files that a cell was computed from, besides artifacts; a clause each."""
        return ()

    def upstream(self, record: Record) -> dict[str, str]:
        """The artifacts that a cell depends on, with their SHA-256 if the record has it, else an empty string."""
        recorded = {artifact["path"]: artifact["sha256"] for artifact in record.provenance.get("artifacts", ())}
        paths = list(record.artifacts.values())
        return {path: recorded.get(path, "") for path in paths} | (
            recorded or dict.fromkeys(sorted(upstream_artifacts(self.cache, self.sides, paths)), "")
        )

    @cached_property
    def sides(self) -> dict[Path, dict[str, Any]]:
        """Every side file of the store."""
        return side_files(self.cache)

    @cached_property
    def stored(self) -> dict[str, str]:
        """The path of every artifact in the store, by its key's digest: a tuning spread is of scores behind no cell."""
        return paths_by_digest(self.cache, self.sides)

    def problem(self, path: str, expected: str) -> str:
        """What is wrong with an artifact; empty if it is undamaged and has the `expected` SHA-256. Hashes it once."""
        if path not in self.artifacts:
            self.artifacts[path] = examine(self.cache / path)
            self.paths[self.artifacts[path].digest] = path
        artifact = self.artifacts[path]
        if artifact.problem or not expected or artifact.sha256 == expected:
            return artifact.problem
        return (
            f"recomputed since: its SHA-256 is {artifact.sha256[:12]}, but the cell was computed from {expected[:12]}"
        )

    def recomputed(self, record: Record, paths: list[str]) -> Record:
        """The record with all numbers recomputed for which scores, logits and images are available."""
        logits = logits_behind(self.artifacts[paths[0]].key)
        classified = record.id_accuracy is not None  # given arrays may lack logits, or labels
        try:
            id_scores, ood_scores = scores = [load_array(self.cache / path) for path in paths]
            counts = Counts.of(id_scores, ood_scores)
            values = evaluate_counts(counts)
            intervals = self.recompute.intervals(record, values, scores) if record.intervals else {}
            extended = self.recompute.extended(record, logits if classified else "", scores) if record.extended else {}
            by_class = self.recompute.by_class(record, scores) if record.extended else ByClass()
            stability = self.recompute.stability(record, id_scores) if record.stability else {}
            tuned = self.recompute.tuned(record) if "spread" in record.tuned else record.tuned
        except (OodbenchError, OSError, ValueError) as error:
            self.result.problems.append(f"{cell_name(record)}: {first_line(error)}")
            return record
        accuracy = self.recompute.accuracy(record, logits, len(id_scores)) if classified else None
        return replace(
            record,
            tpr=values.pop("tpr"),
            metrics=values,
            ties=ties_of(counts) if record.ties else {},
            n_id=len(id_scores),
            n_ood=len(ood_scores),
            intervals=self.checked("confidence intervals", intervals, record.intervals),
            extended=self.checked("extended metrics", extended, record.extended),
            by_class=self.checked("AUROC by class", by_class, record.by_class),
            stability=self.checked("stability", stability, record.stability),
            tuned=self.checked("tuning spread", tuned, record.tuned),
            id_accuracy=self.checked("ID accuracy", accuracy, record.id_accuracy),
            audit=self.audit(record, id_scores, ood_scores),
            key=self.key(record, paths),
        )

    def checked(self, what: str, recomputed: Any, recorded: Any) -> Any:
        """The recomputed value; or the recorded one, noted as unchecked, if `recomputed` is a reason (a string)."""
        if not isinstance(recomputed, str):
            return recomputed
        self.unchecked(f"{what}, {recomputed}")
        return recorded

    def undamaged_artifact(self, key_digest: str) -> tuple[Path, Mapping[str, Any]] | None:
        """Path and key of an undamaged artifact, by its key's digest."""
        path = self.paths.get(key_digest) or self.stored.get(key_digest)
        return (self.cache / path, self.artifacts[path].key) if path and not self.problem(path, "") else None

    def unchecked(self, what: str, cells: int = 1) -> None:
        """Note that something could not be checked for some cells."""
        self.result.unchecked[what] = self.result.unchecked.get(what, 0) + cells

    def audit(self, record: Record, id_scores: np.ndarray, ood_scores: np.ndarray) -> Mapping[str, Mapping[str, float]]:
        """The record's values by other metric rules, recomputed."""
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
        """The key that the record should have; the recorded one if an older version did not record its content."""
        content = record.provenance.get("key")
        if not isinstance(content, dict):
            return record.key
        scores = [self.artifacts[path] for path in paths]
        logits = logits_behind(scores[0].key)
        return digest({**content, "scores": [artifact.digest for artifact in scores], "id": logits or None})

    def joined_rows(self, run: StoredRun) -> list[str]:
        """One problem for each cell that the tables join with cells that were not made alike."""
        good = {path: artifact for path, artifact in self.artifacts.items() if not artifact.problem}
        joined = JoinedRows({path: (artifact.digest, artifact.key) for path, artifact in good.items()})
        whole = [record for record in run.records if record.status != OK or self.upstream(record).keys() <= good.keys()]
        return list(joined.problems(whole))

    def best(self, run: StoredRun) -> None:
        """Recompute which detectors may be the best of each column, and compare them with those in the run's file."""
        if is_outdated(run):
            self.result.problems.append(
                f"{BEST}: it cannot be read or is from other records; repeat the command that produced the run to "
                "write it again"
            )
        stored = read_best(run)
        columns = {
            column: records
            for column, records in by_column(run.records).items()
            if column in stored and column not in self.doubtful and self.has_images("the best detectors", records)
        }
        records = [record for column in columns.values() for record in column]
        for best in judge_best(records, self.cache, self.images)[0]:
            if best != stored[best.id_set, best.ood_set]:
                column = f"{best.id_set} against {best.ood_set}"
                self.result.problems.append(f"{BEST}: the best detectors of {column} are not what the scores give")

    def has_images(self, what: str, records: Sequence[Record]) -> bool:
        """Whether the images of a column, with their groups, are available; if not, note `what` as unchecked."""
        first = next(record for record in records if record.status == OK)
        sizes = ((first.id_set, first.n_id or 0), (first.ood_set, first.n_ood or 0))
        reasons = [s for s in (self.images.of(first, name, count) for name, count in sizes) if isinstance(s, str)]
        if reasons:
            self.unchecked(f"{what}, {reasons[0]}", len(records))
        return not reasons

    def tables(self, run: StoredRun) -> None:
        """Compare the tables in the run's folder with those that the checked records give, byte by byte."""
        for name, content in table_files(run).items():
            path, command = self.run_dir / name, f"bench table {self.run_dir.name}"
            if not path.is_file():
                self.result.problems.append(f"{name}: missing; '{command}' writes it")
            elif path.read_bytes() != content.encode():
                self.result.problems.append(
                    f"{name}: its bytes are not what the scores give; '{command}' writes it again from the records"
                )


class _OfRun(Verifier):
    """The verification of a run in a results folder, whose data sets may be there as well."""

    def __init__(self, run_dir: Path, cache: Path, data_dir: Path) -> None:
        library = Library(data_dir, cache / "data", hash_again=True, view=view_in(run_dir))
        super().__init__(run_dir, cache, ScoredImages(library))
        self.data_sets, self.given_files = DataSets(library, self.unchecked), GivenFiles(cache)

    def begin(self, run: StoredRun) -> None:
        adopt_folders(run.info)

    def inputs(self, record: Record) -> Iterable[str]:
        yield from self.data_sets.problems(record)
        yield from self.given_files.problems(self.upstream(record))


def _unreadable(path: Path) -> str:
    """The problem with a record file; empty if it can be read."""
    try:
        read_record(path)
    except OodbenchError as error:
        return f"cells/{path.name}: {error}"
    return ""


def _counted(names: list[str]) -> str:
    """How many cells are affected, and the names of the first ones."""
    more = f" and {len(names) - CELLS_NAMED} more" if len(names) > CELLS_NAMED else ""
    verb = "cell depends" if len(names) == 1 else "cells depend"
    return f"{len(names)} {verb} on it: {', '.join(names[:CELLS_NAMED])}{more}"
