"""Runs a plan: only what is missing, cell by cell, failures kept to their cells; then the records and the views."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from oodbench.benchmark import provenance, trivial
from oodbench.benchmark.audit import AUDIT_VERSION, audited
from oodbench.benchmark.engines.local import Outcome, Progress, run_jobs
from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.jobs import ExtractJob, FitJob, Job, Outputs, ScoreJob, SetRef, TuneJob, sharing_products
from oodbench.benchmark.looks import in_passes
from oodbench.benchmark.metrics import evaluate
from oodbench.benchmark.plan import Cell, Pair, Plan
from oodbench.benchmark.records import (
    EXACT,
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
from oodbench.benchmark.store import digest
from oodbench.benchmark.work import Bench

RERUN = ("missing", "failed", "all")


class Work(NamedTuple):
    """What is left to do of a plan."""

    cells: list[Cell]
    jobs: list[Job]
    kept: dict[str, Record]
    """Records of earlier commands that still hold, by file name."""


def cell_key(cell: Cell) -> str:
    """What a cell's numbers depend on."""
    keys = [key.digest if key else None for key in (cell.id_scores, cell.ood_scores)]
    labels = cell.id_outputs.logits.digest if cell.id_outputs else None
    content: dict[str, Any] = {"scores": keys, "id": labels, "metrics": METRICS_VERSION}
    if cell.rules != EXACT:
        content["audit"] = [cell.rules, AUDIT_VERSION]
    return digest(content)


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
    return Work(todo, _jobs_left(plan, todo, bench, rerun), kept)


def _earlier(run_dir: Path, cell: Cell) -> Record | None:
    path = run_dir / "cells" / cell.record.file_name
    return read_record(path) if path.is_file() else None


def _holds(earlier: Record, cell: Cell, bench: Bench, rerun: str) -> bool:
    if earlier.key != cell_key(cell):
        return False
    if earlier.status == FAILED:
        return rerun == "missing"
    return all(bench.store.find(key) is not None for key in (cell.id_scores, cell.ood_scores) if key)


def _jobs_left(plan: Plan, cells: Iterable[Cell], bench: Bench, rerun: str) -> list[Job]:
    """The jobs whose artifacts are wanted and not in the store; what only they need is wanted too."""
    if rerun == "all":
        return sharing_products(in_passes(plan.jobs_for(cells), plan.jobs))
    wanted: set[str] = set()
    todo = [key.digest for cell in cells for key in (cell.id_scores, cell.ood_scores) if key]
    todo += [cell.id_outputs.logits.digest for cell in cells if cell.id_outputs]
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
    if add and (run_dir / "run.json").is_file():
        info = _merged(_renamed(run_dir, plan), info)
    _drop_stale(run_dir, work, info["cells"])
    write_run_info(run_dir, info)
    for cell in plan.cells:
        if cell.record.status == SKIPPED:
            write_record(run_dir, replace(cell.record, key=cell_key(cell)))
    _fill(work, bench, run_dir, progress)
    return read_run(run_dir)


def _fill(work: Work, bench: Bench, run_dir: Path, progress: Progress) -> None:
    """Run the jobs; a cell is recorded when the last job that it waits for has ended, well or not."""
    pending = {job.id for job in work.jobs}
    reasons: dict[str, str] = {}
    waiting = list(work.cells)

    def record_ready() -> None:
        for cell in [c for c in waiting if not _waits_for(c) & pending]:
            waiting.remove(cell)
            write_record(run_dir, _finished(cell, reasons, bench))

    record_ready()
    for outcome in run_jobs(work.jobs, bench, progress):
        pending.discard(outcome.job.id)
        if outcome.reason:
            reasons[outcome.job.id] = outcome.reason
            _log(run_dir, outcome)
        record_ready()


def _waits_for(cell: Cell) -> set[str]:
    outputs = [cell.id_outputs.logits.digest] if cell.id_outputs else []
    return {*(key.digest for key in (cell.id_scores, cell.ood_scores) if key), *outputs}


def _finished(cell: Cell, reasons: dict[str, str], bench: Bench) -> Record:
    key = cell_key(cell)
    reason = next((reasons[id_] for id_ in sorted(_waits_for(cell)) if id_ in reasons), "")
    if reason:
        return replace(cell.record, status=FAILED, reason=reason, key=key)
    if cell.id_scores is None or cell.ood_scores is None or cell.id_outputs is None or cell.checkpoint is None:
        raise AssertionError("a cell without keys is skipped, never finished")
    id_scores, ood_scores = bench.store.load_array(cell.id_scores), bench.store.load_array(cell.ood_scores)
    try:
        values = evaluate(id_scores, ood_scores)
    except OodbenchError as error:
        return replace(cell.record, status=FAILED, reason=str(error), key=key)
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
        audit=audit,
        tuned=tuned,
        notes=(*cell.record.notes, *notes),
        id_accuracy=id_accuracy(cell.id_outputs, bench),
        seconds=seconds,
        artifacts={name: key.path for name, key in keys.items()},
    )


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
    if cell.rules == EXACT:
        return {}, ()
    detector = create("detector", parse_detector(cell.record.label).detector)
    try:
        values = audited(cell.rules, detector, id_scores, ood_scores)
    except OodbenchError as error:
        return {}, (f"no metrics by the rules '{cell.rules}': {error}",)
    return ({cell.rules: values} if values else {}), ()


def id_accuracy(outputs: Outputs, bench: Bench) -> float:
    """Share of ID test images whose largest logit is their label's."""
    predicted = bench.store.load_array(outputs.logits).argmax(axis=1)
    return float(np.mean(predicted == bench.labels(outputs.data)))


def _log(run_dir: Path, outcome: Outcome) -> None:
    if outcome.details:
        text = f"{outcome.job.title}\n\n{outcome.details}"
        write_atomically(run_dir / "logs" / f"{outcome.job.kind}-{outcome.job.id[:12]}.txt", text)


def _drop_stale(run_dir: Path, work: Work, shown: list[str]) -> None:
    """Remove records that the run no longer shows or that are about to be made anew; the store keeps what they held."""
    redone = {cell.record.file_name for cell in work.cells}
    folder = run_dir / "cells"
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        if path.name in redone or path.name not in shown:
            path.unlink()


def _info(plan: Plan, bench: Bench, asked: dict[str, Any]) -> dict[str, Any]:
    measured = trivial.Remembered(bench.library.files.cache)
    return {
        **asked,
        "suite": {"name": plan.suite.name, "title": plan.suite.title},
        "pairs": [_pair_info(pair, bench, measured) for pair in plan.pairs],
        "notes": [*plan.suite.notes, *bench.library.notes],
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
    }


def write_views(run: Run, cache: Path) -> list[Path]:
    """Tables and plots of a run; nothing is redrawn that would come out the same."""
    inputs = _view_inputs(run)
    marker = run.path / "views.json"
    try:
        last = json.loads(marker.read_text(encoding="utf-8"))
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
