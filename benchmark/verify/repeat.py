"""Repeats a run from nothing and compares the repetition with the run, for `bench run --from`.

The repetition has a separate store, `runs/NAME-again/cache`: in the run's store everything would be found and nothing
recomputed. On the same machine type, with the same threads and libraries, a cell counts as reproduced if its scores
and metrics are the same bytes. Elsewhere arithmetic rounds differently, and the tolerance depends on the weights:

- The same weights: scores change in the last bits, which swaps images whose scores are almost tied. Every metric may
  differ by `SWAPPED` images of the smaller set, or by `LAST_BITS` if that is more.
- Retrained weights: rounding differs from the first step on, and after some hundred steps the network is another draw,
  as with another seed. AUROC and ID accuracy may differ by `RETRAINED`; metrics at a threshold vary more, and are
  reported but not judged. Such a tolerance detects other data, other settings and broken installations; it cannot
  detect a small change of a method.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.errors import OodbenchError, UserError, counted
from oodbench.benchmark.plan.options import Options
from oodbench.benchmark.plan.suite_file import suite_path, text_elsewhere
from oodbench.benchmark.plan.weights.file import GIVEN
from oodbench.benchmark.records.cell_names import cell_name
from oodbench.benchmark.records.paths import run_dir
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.rows import own_name
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.store.atomic import to_json, unique_slug, write_atomically
from oodbench.benchmark.store.user_path import user_path

logger = logging.getLogger(__name__)

SWAPPED, LAST_BITS, RETRAINED = 2, 0.001, 0.1

JUDGED = ("auroc", "id_accuracy")
"""Metrics that must agree within `RETRAINED`."""

MACHINE = ("processor", "device", "device_name", "threads", "torch", "numpy")
"""Properties of machine and libraries that must be equal for the results to be the same bytes."""

EXACT, WITHIN, DIFFERENT, NOTHING = "exactly", "within tolerance", "not reproduced", "no numbers to compare"
LISTED = 40
"""Cells up to which all are printed; `again.json` has every one."""

VERDICTS = (EXACT, WITHIN, DIFFERENT, NOTHING)


@dataclass(frozen=True)
class CellOutcome:
    """Whether one cell was reproduced."""

    cell: str
    verdict: str
    """One of `VERDICTS`."""
    message: str = ""
    differences: Mapping[str, float] | None = None
    """Metric -> its repeated minus its recorded value, for every metric that differs."""


@dataclass(frozen=True)
class RepetitionOutcome:
    """Whether a run was reproduced, cell by cell."""

    original: Path
    """The run's folder."""
    repeated: Path
    """The repetition's folder."""
    machine_differences: tuple[str, ...]
    """How machine and libraries differ from the run's; empty if they do not."""
    cells: tuple[CellOutcome, ...]

    def lines(self) -> Iterator[str]:
        """The outcome as text: one line per cell, then a summary. Of many cells, exact ones are counted, not listed."""
        listed = [cell for cell in self.cells if len(self.cells) <= LISTED or cell.verdict != EXACT]
        for cell in listed:
            yield f"{cell.cell}: {cell.verdict}{f': {cell.message}' if cell.message else ''}"
        if more := len(self.cells) - len(listed):
            yield f"{counted(more, 'more cell')}: {EXACT}"
        yield ""
        if self.machine_differences:
            yield (
                f"The machine or libraries differ from the run's: {'; '.join(self.machine_differences)}. Rounding then "
                f"differs, so a cell counts as reproduced if its metrics are within {SWAPPED} images or {LAST_BITS} "
                f"with the same weights, or if AUROC and ID accuracy are within {RETRAINED} with retrained weights."
            )
        else:
            yield "The same machine type, threads and libraries as the run: only the same bytes count as reproduced."
        counts = {verdict: sum(cell.verdict == verdict for cell in self.cells) for verdict in VERDICTS}
        summary = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n)
        yield f"{len(self.cells)} cells of {self.original}: {summary}. The repetition: {self.repeated}"

    def to_json(self) -> str:
        """The content of `again.json`."""
        cells = [
            {"cell": c.cell, "verdict": c.verdict, "told": c.message, "differences": c.differences} for c in self.cells
        ]
        paths = {"original": str(self.original), "repeated": str(self.repeated)}
        return to_json({**paths, "elsewhere": self.machine_differences, "cells": cells})


@dataclass(frozen=True)
class Repetition:
    """A repetition of a run, ready to start."""

    original: StoredRun
    run_dir: Path
    """The repetition's folder."""
    overrides: Mapping[str, Any]
    """Options that replace the run's: device, threads, data folder, plug-in files, engine."""

    def commands(self) -> Iterator[Prepared]:
        """The run's commands in turn. Each is planned when it is requested: execute it before requesting the next."""
        source = {"of": str(self.original.path.resolve()), "written": self.original.info.get("written")}
        for index, options in enumerate(_commands(self.original)):
            suite = self._suite(options.pop("suite"), options.pop("suite_toml", None))
            arguments = {**options, "suite": suite, **self.overrides, "add": index > 0, "only": index == 0}
            results, name = self.run_dir.parent.parent, self.run_dir.name
            prepared = prepare(**arguments, results=results, name=name, own_cache=True)
            parts = [{**part, "line": self._line()} for part in prepared.asked["parts"]]
            yield replace(prepared, asked={**prepared.asked, "again": source, "parts": parts})

    def _line(self) -> str:
        """The command that continues the repetition."""
        results = self.run_dir.parent.parent
        where = [] if str(results) == Options.results else ["--results", str(results)]
        name = (
            [] if self.run_dir.name == f"{self.original.path.resolve().name}-again" else ["--name", self.run_dir.name]
        )
        return shlex.join(["bench", "run", "--from", str(self.original.path), *name, *where])

    def _suite(self, name: str, text: str | None) -> str:
        """The name of the run's suite if its text is unchanged, else the path of a file with the text of that time.

        Empty for a run on given arrays, which has no suite.
        """
        if not name:
            return ""
        try:
            current = suite_path(name).read_text(encoding="utf-8-sig")
        except (OodbenchError, OSError):
            current = None
        if text is None or current == text:
            return name
        path = self.run_dir / "suite" / f"{Path(name).stem}.toml"
        write_atomically(path, text_elsewhere(text, Path(name).parent) if name.endswith(".toml") else text)
        logger.warning(f"The suite '{name}' has changed since the run: the text in run.json is used, '{path}'.")
        return str(path)

    def compare(self) -> RepetitionOutcome:
        """Compare the repetition with the run, and write the outcome to `again.json` in the repetition's folder."""
        repetition = read_stored_run(self.run_dir)
        by_name = {cell_name(record): record for record in repetition.records}
        pairs = [(record, by_name.get(cell_name(record))) for record in self.original.records]
        differences = {
            difference
            for recorded, repeated in pairs
            if repeated
            for difference in _machine_differences(recorded, repeated, self.original, repetition)
        }
        cells = tuple(_outcome(recorded, repeated, self.original, repetition) for recorded, repeated in pairs)
        outcome = RepetitionOutcome(self.original.path, self.run_dir, tuple(sorted(differences)), cells)
        write_atomically(self.run_dir / "again.json", outcome.to_json())
        return outcome


def prepare_repetition(
    source: str | Path,
    *,
    results: str | Path = "",
    name: str = "",
    **overrides: Any,
) -> Repetition:
    """Prepare the repetition of a run.

    A repetition that was stopped continues.

    Args:
        source: The run: its `run.json`, its folder or its name.
        results: The results folder of the repetition; by default the run's own.
        name: The name of the repetition; NAME-again by default.
        overrides: Options that replace the run's, such as `device`, `threads`, `data_dir` and `plugins`.

    Raises:
        UserError: The run does not exist, has no numbers, or is to be repeated into itself or another run's folder.
    """
    path = user_path(source)
    folder = path.parent if path.name == "run.json" else run_dir(Path(results or "results"), str(source))
    original = read_stored_run(folder)
    parent = folder.resolve().parent
    root = user_path(results) if results else (parent.parent if parent.name == "runs" else Path("results"))
    target = root / "runs" / unique_slug(name or f"{folder.resolve().name}-again")
    if not any(record.status == OK for record in original.records):
        raise UserError(f"The run '{folder}' has no cell with numbers, so there is nothing to repeat.")
    if target.resolve() == folder.resolve():
        raise UserError(f"'{target}' is the run itself. Choose another --name for its repetition.")
    if (target / "run.json").is_file() and read_stored_run(target).info.get("again", {}).get("of") != str(
        folder.resolve()
    ):
        raise UserError(f"'{target}' already exists and is not a repetition of '{folder}'. Choose another --name.")
    return Repetition(original, target, overrides)


def _commands(run: StoredRun) -> list[dict[str, Any]]:
    """The options of the commands that produced a run; for runs of older versions, as far as they are recorded."""
    if "commands" in run.info:
        return [dict(options) for options in run.info["commands"]]
    if "asked" not in run.info:
        raise UserError(f"'{run.path / 'run.json'}' does not record the run's commands, so it cannot be repeated.")
    asked: dict[str, Any] = dict(run.info["asked"])
    if "all" in asked.get("detectors", ()):
        imported = {own_name(record, "label") for record in run.records if record.recipe in GIVEN}
        labels = run.info.get("detectors", asked["detectors"])
        asked["detectors"] = [label.partition("@")[0] if label in imported else label for label in labels]
    trained = {str(record.training.get("precision", "")) for record in run.records if record.status == OK}
    asked["precision"] = asked.get("precision") or (trained.pop() if len(trained) == 1 else "")
    return [{**asked, **{name: run.info[name] for name in ("device", "threads") if name in run.info}}]


def _outcome(recorded: Record, repeated: Record | None, original: StoredRun, repetition: StoredRun) -> CellOutcome:
    name = cell_name(recorded)
    if recorded.status != OK:
        return CellOutcome(name, NOTHING, f"{recorded.status} in the run")
    if repeated is None:
        return CellOutcome(name, DIFFERENT, "the repetition has no such cell")
    if repeated.status != OK:
        return CellOutcome(name, DIFFERENT, f"{repeated.status}: {repeated.reason}")
    changes = "; ".join(_changes(recorded, repeated))
    suffix = f" (since then: {changes})" if changes else ""
    before, after = _values(recorded), _values(repeated)
    off = {metric: after[metric] - value for metric, value in before.items() if after[metric] != value}
    if not off and _same_scores(recorded, repeated):
        return CellOutcome(name, EXACT, suffix.strip(" ()"))
    other_machine = _machine_differences(recorded, repeated, original, repetition)
    if other_machine and not _outside_tolerance(recorded, repeated, off):
        return CellOutcome(name, WITHIN, _largest(before, off) + suffix, off)
    return CellOutcome(name, DIFFERENT, _largest(before, off) + suffix, off)


def _values(record: Record) -> dict[str, float]:
    return {"id_accuracy": record.id_accuracy or 0.0, "tpr": record.tpr or 0.0, **record.metrics}


def _outside_tolerance(recorded: Record, repeated: Record, off: Mapping[str, float]) -> bool:
    """Whether some difference is larger than different rounding explains."""
    smaller = min(recorded.n_id, recorded.n_ood) if recorded.n_id and recorded.n_ood else 1
    if (recorded.n_id, recorded.n_ood) != (repeated.n_id, repeated.n_ood):
        return True
    weights = [_sha256(record, record.artifacts.get("checkpoint", "")) for record in (recorded, repeated)]
    if weights[0] and weights[0] == weights[1]:
        return any(abs(value) > max(LAST_BITS, SWAPPED / smaller) for value in off.values())
    return any(abs(off.get(metric, 0.0)) > RETRAINED for metric in JUDGED)


def _sha256(record: Record, path: str) -> str:
    artifacts = record.provenance.get("artifacts", ())
    return next((str(artifact["sha256"]) for artifact in artifacts if artifact["path"] == path), "")


def _same_scores(recorded: Record, repeated: Record) -> bool:
    """Whether the stored scores are the same bytes; a hash that is missing from a record counts as equal."""
    pairs = [
        tuple(_sha256(record, record.artifacts.get(which, "")) for record in (recorded, repeated))
        for which in ("id_scores", "ood_scores")
    ]
    return all(one == other or not (one and other) for one, other in pairs)


def _largest(values: Mapping[str, float], off: Mapping[str, float]) -> str:
    """The judged metrics that differ and the one that differs most, as text."""
    if not off:
        return "the metrics are equal, but the scores are not the same bytes"
    worst = max(off, key=lambda metric: abs(off[metric]))
    shown = dict.fromkeys([*(metric for metric in JUDGED if metric in off), worst])
    return ", ".join(f"{metric} {values[metric] + off[metric]:.6f} instead of {values[metric]:.6f}" for metric in shown)


def _machine_differences(recorded: Record, repeated: Record, original: StoredRun, repetition: StoredRun) -> list[str]:
    """How the machines and libraries of two records differ."""
    before, after = _machine(recorded, original), _machine(repeated, repetition)
    return [
        f"{name} {after[name]} instead of {before[name]}"
        for name in MACHINE
        if name in before and name in after and before[name] != after[name]
    ]


def _machine(record: Record, run: StoredRun) -> dict[str, Any]:
    return {**run.info.get("packages", {}), **run.info, **record.provenance.get("made", {})}


def _changes(recorded: Record, repeated: Record) -> Iterator[str]:
    """Which code, settings and data have changed, as text; nothing if the keys are equal."""
    if recorded.key == repeated.key:
        return
    before, after = (_inputs(record) for record in (recorded, repeated))
    names = [name for name in before if before[name] != after.get(name)] if before else []
    yield from (f"{name} {after.get(name)} instead of {before[name]}" for name in names[:3])
    if not names:
        yield "code, settings or data have changed: the keys differ"


def _inputs(record: Record) -> dict[str, Any]:
    """What a record was computed from, by name."""
    inputs = _flat(record.provenance.get("resolved", {}))
    for used in record.provenance.get("data", ()):
        inputs[f"data {used['set']} ({used['part']})"] = used["sha256"][:12]
        inputs[f"groups of {used['set']} ({used['part']})"] = used.get("groups", "")[:12]
    return inputs


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, names joined by spaces."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat |= _flat(item, f"{prefix}{name} ") if isinstance(item, Mapping) else {f"{prefix}{name}": item}
    return flat
