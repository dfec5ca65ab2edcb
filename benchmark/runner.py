"""Runs a plan: only what is missing, cell by cell, failures kept to their cells; then the records and the views."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from oodbench.benchmark import provenance, trivial
from oodbench.benchmark.audit import AUDIT_VERSION, audited
from oodbench.benchmark.engines.local import Outcome, Progress, run_jobs
from oodbench.benchmark.errors import OodbenchError, StoreError
from oodbench.benchmark.extended import EXTENDED_VERSION, Known, extended
from oodbench.benchmark.intervals import INTERVALS_VERSION, confidence_intervals
from oodbench.benchmark.jobs import ExtractJob, FitJob, Job, Outputs, ScoreJob, SetRef, TuneJob, sharing_products
from oodbench.benchmark.leakage import near_notes
from oodbench.benchmark.looks import in_passes
from oodbench.benchmark.metrics import Counts, evaluate_counts, ties_of
from oodbench.benchmark.plan import Cell, Pair, Plan
from oodbench.benchmark.records import (
    FAILED,
    METRICS_VERSION,
    OK,
    SKIPPED,
    Record,
    Run,
    read_record,
    read_run,
    write_atomically,
    write_record,
    write_run_info,
)
from oodbench.benchmark.specs import create, parse_detector, parse_set
from oodbench.benchmark.store import Key, Store, digest
from oodbench.benchmark.untrusted import read_json
from oodbench.benchmark.work import Bench

RERUN = ("missing", "failed", "all")


class Work(NamedTuple):
    """What is left to do of a plan."""

    cells: list[Cell]
    jobs: list[Job]
    kept: dict[str, Record]
    """Records of earlier commands that still hold, by file name."""
    anew: bool = False
    """Whether jobs are to be done whose artifacts are in the store."""


def cell_key(cell: Cell) -> str:
    """What a cell's numbers depend on, as one text."""
    return digest(key_content(cell))


def key_content(cell: Cell) -> dict[str, Any]:
    """What a cell's numbers depend on."""
    keys = [key.digest if key else None for key in (cell.id_scores, cell.ood_scores)]
    labels = cell.id_outputs.logits.digest if cell.id_outputs else None
    content: dict[str, Any] = {"scores": keys, "id": labels, "metrics": METRICS_VERSION, "intervals": INTERVALS_VERSION}
    if cell.rules:
        rules = cell.rules if len(cell.rules) > 1 else cell.rules[0]
        content["audit"] = [rules, AUDIT_VERSION]
    if cell.beyond:
        content["extended"] = [EXTENDED_VERSION, *(key.digest for key in cell.scores[2:])]
    return content


def work_left(plan: Plan, bench: Bench, run_dir: Path, rerun: str) -> Work:
    """Compare a plan with the run folder and the store. 'missing' leaves failures alone; 'failed' tries them anew."""
    kept: dict[str, Record] = {}
    todo = []
    for cell in plan.cells:
        earlier = _earlier(run_dir, cell)
        if cell.record.status == SKIPPED:
            continue
        if rerun != "all" and earlier is not None and _holds(earlier, cell, bench, rerun):
            kept[cell.record.file_name] = earlier
        else:
            todo.append(cell)
    return Work(todo, _jobs_left(plan, todo, bench, rerun), kept, rerun == "all")


def _earlier(run_dir: Path, cell: Cell) -> Record | None:
    path = run_dir / "cells" / cell.record.file_name
    return read_record(path) if path.is_file() else None


def _holds(earlier: Record, cell: Cell, bench: Bench, rerun: str) -> bool:
    if earlier.key != cell_key(cell):
        return False
    if earlier.status == FAILED:
        return rerun == "missing"
    return all(bench.store.find(key) is not None for key in cell.scores)


def _jobs_left(plan: Plan, cells: Iterable[Cell], bench: Bench, rerun: str) -> list[Job]:
    """The jobs whose artifacts are wanted and not in the store; what only they need is wanted too."""
    if rerun == "all":
        return sharing_products(in_passes(plan.jobs_for(cells), plan.jobs))
    wanted: set[str] = set()
    todo = [id_ for cell in cells for id_ in cell.waits_for]
    while todo:
        id_ = todo.pop()
        if id_ not in wanted and any(bench.store.find(key) is None for key in plan.jobs[id_].makes):
            wanted.add(id_)
            todo.extend(plan.jobs[id_].after)
    return sharing_products(in_passes([job for id_, job in plan.jobs.items() if id_ in wanted], plan.jobs))


def run_plan(
    plan: Plan, work: Work, bench: Bench, run_dir: Path, asked: dict[str, Any], progress: Progress, add: bool = False
) -> Run:
    """Do the work, write a record a cell as soon as it is complete, and return the run."""
    names = [cell.record.file_name for cell in plan.cells]
    info = {**_info(plan, bench, asked), "cells": names}
    with run_lock(bench.store, run_dir):
        if add and (run_dir / "run.json").is_file():
            info = _merged(_renamed(run_dir, plan), info)
        _drop_stale(run_dir, work, info["cells"])
        write_run_info(run_dir, info)
    for cell in plan.cells:
        if cell.record.status == SKIPPED:
            write_record(run_dir, replace(cell.record, key=cell_key(cell)))
    _fill(plan, work, bench, run_dir, progress)
    if not (run_dir / "run.json").is_file():
        raise StoreError(f"'{run_dir}' was removed during the run. Run the same command again: the cache is kept.")
    return read_run(run_dir)


def run_lock(store: Store, run_dir: Path) -> AbstractContextManager[None]:
    """Held while a run's list of cells, or its tables and plots, are written."""
    return store.locks.hold(f"run-{run_dir.name}", f"is writing the tables of '{run_dir}'")


def _fill(plan: Plan, work: Work, bench: Bench, run_dir: Path, progress: Progress) -> None:
    """Run the jobs; a cell is recorded when the last job that it waits for has ended, well or not."""
    pending = {job.id for job in work.jobs}
    reasons: dict[str, str] = {}
    waiting = list(work.cells)

    def record_ready() -> None:
        for cell in [c for c in waiting if pending.isdisjoint(c.waits_for)]:
            waiting.remove(cell)
            record = _finished(cell, reasons, bench)
            write_record(run_dir, provenance.told(record, cell, plan, bench, key_content(cell)))

    record_ready()
    for outcome in run_jobs(work.jobs, bench, progress, work.anew):
        pending.discard(outcome.job.id)
        if outcome.reason:
            reasons[outcome.job.id] = outcome.reason
            _log(run_dir, outcome)
        record_ready()


def _finished(cell: Cell, reasons: dict[str, str], bench: Bench) -> Record:
    key = cell_key(cell)
    reason = next((reasons[id_] for id_ in sorted(cell.waits_for) if id_ in reasons), "")
    if reason:
        return replace(cell.record, status=FAILED, reason=reason, key=key)
    if cell.id_scores is None or cell.ood_scores is None or cell.id_outputs is None or cell.checkpoint is None:
        raise AssertionError("a cell without keys is skipped, never finished")
    id_scores, ood_scores = bench.store.load_array(cell.id_scores), bench.store.load_array(cell.ood_scores)
    try:
        counts = Counts.of(id_scores, ood_scores)
        between = confidence_intervals(id_scores, ood_scores, *_groups(cell, bench))
        more = _extended(cell, bench)
    except OodbenchError as error:
        return replace(cell.record, status=FAILED, reason=str(error), key=key)
    values = evaluate_counts(counts)
    seconds = sum(bench.store.about(k).get("seconds", 0.0) for k in (cell.id_scores, cell.ood_scores))
    audit, notes = _audit(cell, id_scores, ood_scores)
    tuned = _tuned(cell, bench)
    if tuned:
        notes = (*notes, _told_of(tuned))
    keys = {"id_scores": cell.id_scores, "ood_scores": cell.ood_scores, "checkpoint": cell.checkpoint.key}
    return replace(
        cell.record,
        status=OK,
        key=cell_key(cell),
        tpr=values.pop("tpr"),
        metrics=values,
        ties=ties_of(counts),
        intervals={name: list(ends) for name, ends in between.items()},
        audit=audit,
        extended=more,
        tuned=tuned,
        notes=(*cell.record.notes, *notes),
        id_accuracy=id_accuracy(cell.id_outputs, bench),
        seconds=seconds,
        artifacts={name: key.path for name, key in keys.items()},
    )


def _groups(cell: Cell, bench: Bench) -> list[np.ndarray | None]:
    """Which images of either set depend on each other, where the data set tells."""
    return [bench.images(data).groups for data in (cell.pair.id, cell.pair.ood)] if cell.pair else [None, None]


def _tuned(cell: Cell, bench: Bench) -> dict[str, Any]:
    """What was chosen for a cell, and on what."""
    if cell.tuned is None:
        return {}
    choice = bench.store.load_json(cell.tuned)
    kin = bench.library.kin(parse_set(cell.record.ood_set))
    own = any(bench.library.kin(parse_set(name.partition(" (")[0])) == kin for name in choice["on"])
    return {**{name: choice[name] for name in ("settings", "on", "auroc")}, "own_source": own}


def _told_of(tuned: dict[str, Any]) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in tuned["settings"].items()) or "its defaults"
    own = ", among them images of the OOD set's own source" if tuned["own_source"] else ""
    return f"{settings} chosen on {', '.join(tuned['on'])}{own}"


def _audit(
    cell: Cell, id_scores: np.ndarray, ood_scores: np.ndarray
) -> tuple[dict[str, dict[str, float]], tuple[str, ...]]:
    """A cell's values by other metric rules, or a note on why they cannot be had."""
    found: dict[str, dict[str, float]] = {}
    notes: list[str] = []
    for rules in cell.rules:
        detector = create("detector", parse_detector(cell.record.label).detector)
        try:
            if values := audited(rules, detector, id_scores, ood_scores):
                found[rules] = values
        except OodbenchError as error:
            notes.append(f"no metrics by the rules '{rules}': {error}")
    return found, tuple(notes)


def _extended(cell: Cell, bench: Bench) -> dict[str, float]:
    """A cell's extended metrics, if they are asked for."""
    if cell.beyond is None or cell.id_scores is None or cell.ood_scores is None or cell.id_outputs is None:
        return {}
    load = bench.store.load_array
    test = _known(cell.id_scores, cell.id_outputs, bench)
    shifted = [_known(scores, outputs, bench) for scores, outputs in cell.beyond.shifted]
    return extended(test, load(cell.ood_scores), load(cell.beyond.validation), shifted)


def _known(scores: Key, outputs: Outputs, bench: Bench) -> Known:
    return Known(bench.store.load_array(outputs.logits), bench.labels(outputs.data), bench.store.load_array(scores))


def id_accuracy(outputs: Outputs, bench: Bench) -> float:
    """Share of ID test images whose largest logit is their label's."""
    predicted = bench.store.load_array(outputs.logits).argmax(axis=1)
    return float(np.mean(predicted == bench.labels(outputs.data)))


def _log(run_dir: Path, outcome: Outcome) -> None:
    if outcome.details:
        text = f"{outcome.job.title}\n\n{outcome.details}"
        write_atomically(run_dir / "logs" / f"{outcome.job.kind}-{outcome.job.id[:12]}.txt", text)


def _drop_stale(run_dir: Path, work: Work, shown: list[str]) -> None:
    """Remove records that the run no longer shows or that are about to be made anew; the store keeps what they held.

    One that another process has written since the plan was made stays: what replaces it will be equal.
    """
    redone = {cell.record.file_name: cell_key(cell) for cell in work.cells}
    folder = run_dir / "cells"
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        if path.name not in shown or (path.name in redone and not _is_done(path, redone[path.name])):
            path.unlink(missing_ok=True)


def _is_done(path: Path, key: str) -> bool:
    record = read_record(path)
    return record.status == OK and record.key == key


def _info(plan: Plan, bench: Bench, asked: dict[str, Any]) -> dict[str, Any]:
    measured = trivial.Remembered(bench.library.files.cache)
    return {
        **asked,
        "suite": {"name": plan.suite.name, "title": plan.suite.title},
        "pairs": [_pair_info(pair, bench, measured) for pair in plan.pairs],
        "notes": [*plan.suite.notes, *bench.library.notes, *near_notes(plan, bench)],
        "skipped": [absence._asdict() for absence in plan.skipped],
        "unavailable": [{"name": a.what, "reason": a.reason} for a in plan.unavailable],
        "passes": _passes(plan),
        **provenance.collect(bench),
    }


def _pair_info(pair: Pair, bench: Bench, measured: trivial.Remembered) -> dict[str, Any]:
    return {
        "id_set": pair.id.set,
        "ood_set": pair.ood.set,
        "group": pair.group,
        "outlier_source": pair.outlier_source,
        "trivial": measured.best(bench.images(pair.id), bench.images(pair.ood)),
        "id_family": _family(pair.id, bench),
        "ood_family": _family(pair.ood, bench),
    }


def _family(data: SetRef, bench: Bench) -> str:
    """The set that this one samples, for comparisons with published numbers; empty for chosen classes and forms."""
    spec = parse_set(data.set)
    whole = spec.classes is None and not spec.forms
    return (bench.library.card(spec).family or spec.name) if whole else ""


def _passes(plan: Plan) -> str:
    """The line on images forwarded, from the plan: what an empty store would cost, and which detectors add to it."""
    extracts = [job for job in plan.jobs.values() if isinstance(job, ExtractJob)]
    distinct = {(job.outputs.data.set, job.outputs.data.part): job.size for job in extracts}
    checkpoints = {job.checkpoint.key.digest for job in extracts}
    own: dict[str, int] = {}
    for job in plan.jobs.values():
        if isinstance(job, TuneJob | FitJob | ScoreJob) and job.passes:
            name = job.candidates[0] if isinstance(job, TuneJob) else job.detector
            own[name] = own.get(name, 0) + job.passes
    return (
        f"{sum(distinct.values()):,} distinct images, {len(checkpoints)} classifier{'s' * (len(checkpoints) != 1)}: "
        f"{sum(job.size for job in extracts):,} forwarded, each once a classifier for all detectors"
        f"{''.join(f'; {name} +{images:,}' for name, images in own.items())}."
    )


def _renamed(run_dir: Path, plan: Plan) -> dict[str, Any]:
    """A run's info, its records under the names that tell a backbone which is not the suite's.

    Records of older versions, or made under another suite, may lie where cells of this plan belong.
    """
    info = read_run(run_dir).info
    names = []
    for name in info.get("cells", []):
        path = run_dir / "cells" / Path(name).name
        record = read_record(path) if path.is_file() else None
        if record is not None and record.backbone:
            record = replace(record, other_backbone=record.backbone != str(plan.backbone))
            if record.file_name != path.name:
                name = write_record(run_dir, record).name
        names.append(name)
    return {**info, "cells": names}


def _merged(earlier: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """--add: what earlier commands showed, and what this one adds."""
    pairs = {(p["id_set"], p["ood_set"]): p for p in [*earlier.get("pairs", []), *info["pairs"]]}
    return {
        **info,
        "cells": list(dict.fromkeys([*earlier.get("cells", []), *info["cells"]])),
        "pairs": list(pairs.values()),
        "seeds": sorted({*earlier.get("seeds", []), *info["seeds"]}),
        "commands": [*(one for one in earlier.get("commands", []) if one not in info["commands"]), *info["commands"]],
    }


def write_views(run: Run, cache: Path) -> list[Path]:
    """Tables and plots of a run; nothing is redrawn that would come out the same."""
    inputs = _view_inputs(run)
    marker = run.path / "views.json"
    try:
        last = read_json(marker)
        files = [run.path / name for name in last["files"]]
        if last["inputs"] == inputs and all(file.is_file() for file in files):
            return files
    except (OSError, ValueError, KeyError, TypeError):
        pass
    from oodbench.benchmark.views import plots, tables

    files = [*tables.write_tables(run), *plots.draw(run, cache)]
    names = [file.relative_to(run.path).as_posix() for file in files]
    write_atomically(marker, json.dumps({"inputs": inputs, "files": names}, indent=2) + "\n")
    return files


def _view_inputs(run: Run) -> str:
    """A hash of all that the views are made from: the records, the run's shown facts, and the views' own source."""
    here = Path(__file__).parent
    files = [here / "records.py", here / "metrics.py", *sorted((here / "views").glob("*.py"))]
    source = hashlib.sha256(b"".join(file.read_bytes() for file in files))
    shown = {
        k: run.info.get(k) for k in ("name", "suite", "pairs", "notes", "skipped", "unavailable", "passes", "seeds")
    }
    return digest({"records": [asdict(record) for record in run.records], "shown": shown, "source": source.hexdigest()})
