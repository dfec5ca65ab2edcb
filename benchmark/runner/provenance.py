"""From what a run and each of its cells were made: software, machine, commit; settings, data, artifacts."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from oodbench.benchmark.metrics.names import METRICS_VERSION
from oodbench.benchmark.plan.jobs import FitJob, ImportJob, Job, ReduceMapsJob, ScoreJob, SetRef, TrainJob, TuneJob
from oodbench.benchmark.plan.plan import Cell, Plan
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.records.environment import PACKAGES, _version, machine, made_now
from oodbench.benchmark.records.record import OK, Record

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


MADE = ("seconds", "peak_memory", "peak_device_memory", "device", "threads", "torch", "written", "version", "commit")
"""What a record repeats of an artifact's side file."""


def collect(context: JobContext) -> dict[str, Any]:
    """Facts about software and machine, for `run.json`."""
    return {
        **made_now(),
        **machine(context.device),
        "platform": platform.platform(),
        "data": dict(sorted(context.library.sources.items())),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def with_provenance(record: Record, cell: Cell, plan: Plan, context: JobContext, key: Mapping[str, Any]) -> Record:
    """A cell's record with its provenance, `key` what its key is the digest of; one without numbers has none."""
    if record.status != OK:
        return record
    found = {**of_cell(cell, plan, context), "key": dict(key)}
    peaks = [made["peak_memory"] for made in found["artifacts"] if "peak_memory" in made]
    return replace(record, provenance=found, peak_memory=max(peaks, default=None))


def of_cell(cell: Cell, plan: Plan, context: JobContext) -> dict[str, Any]:
    """What a finished cell was made from, as plain data.

    made        version, commit, time, machine, of the numbers
    needs       what the detector is shown of an image
    data        every set that training, fitting, tuning or scoring saw: use, set, part, images, limit, sha256
    resolved    detector, recipe, backbone, schedule and stages, each with settings and version
    artifacts   every file that the scores hang on, first to last: kind, path, key, sha256, and how it was made
    """
    jobs = plan.jobs_for([cell])
    scoring = next(job for job in jobs if isinstance(job, ScoreJob))
    detector = create("detector", parse_spec(scoring.detector))
    data = dict.fromkeys(used for job in jobs for used in _used(job))
    return {
        "made": {**made_now(), **machine(context.device)},
        "needs": sorted(detector.needs),
        "data": [{"use": use, **_facts(ref, context)} for use, ref in data],
        "resolved": _resolved(cell, jobs, scoring),
        "artifacts": [made for job in jobs for made in _artifacts(job, context)],
    }


def _used(job: Job) -> Iterator[tuple[str, SetRef]]:
    """What a job sees of the data, and for what."""
    if isinstance(job, TrainJob):
        yield "train", job.train
        if job.outliers:
            yield "train on outliers", job.outliers
    elif isinstance(job, ReduceMapsJob) and job.learns:
        yield "fit", job.data
    elif isinstance(job, FitJob | TuneJob):
        use = "fit" if isinstance(job, FitJob) else "tune"
        yield from ((use, outputs.data) for outputs in (job.train, job.validation, job.outliers) if outputs)
        if isinstance(job, TuneJob):
            yield from (("tune on OOD", outputs.data) for outputs in job.ood)
    elif isinstance(job, ScoreJob):
        yield "score", job.outputs.data


def _facts(ref: SetRef, context: JobContext) -> dict[str, Any]:
    facts = {"set": ref.set, "part": ref.part, "images": ref.images, "sha256": context.images(ref).checksum}
    return {**facts, "limit": ref.limit} if ref.limit else facts


def _resolved(cell: Cell, jobs: list[Job], scoring: ScoreJob) -> dict[str, Any]:
    """What is in the keys beside data and other keys."""
    trained = next(job for job in jobs if isinstance(job, TrainJob | ImportJob) and job.checkpoint == cell.checkpoint)
    content, scores = trained.makes[0].content, scoring.makes[0].content
    names = ("recipe", "file", "backbone", "schedule", "precision", "training", "import")
    stages = {"extraction": scoring.outputs.logits.content["extraction"], "scoring": scores["scoring"]}
    kept = {name: content[name] for name in names if name in content}
    return {"detector": scores["detector"], **kept, **stages, "metrics": METRICS_VERSION, "rules": list(cell.rules)}


def _artifacts(job: Job, context: JobContext) -> Iterator[dict[str, Any]]:
    for key in job.makes:
        side = context.store.side(key)
        about = {name: value for name, value in side.get("about", {}).items() if name in MADE}
        yield {"kind": key.kind, "path": key.path, "key": key.digest, "sha256": side.get("sha256", ""), **about}
